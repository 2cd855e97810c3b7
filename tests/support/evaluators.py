"""Small data and a small model for the evaluators of a training run."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np

from livecc_jax.data.rows.packing import RowShape
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.evaluate.run.clip_commentary import ClipCommentaryEvaluator
from livecc_jax.evaluate.run.packed_choice import PackedChoiceEvaluator
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.parallel.mesh import MeshConfig, make_mesh
from livecc_jax.text.open import open_tokenizer
from livecc_jax.train.config import ComputeConfig
from livecc_jax.train.state import param_shardings
from tests.support.random_models import initial_params

CLIPS = Path(__file__).parents[2] / "data/clips"
BUDGET, FRAMES = PixelBudget.parse("16"), 6
STREAM = StreamOptions(max_new_tokens=3, context=4096)


def write_data(root):
    """Video-MME with two videos and a missing one; three annotated clips, one of a missing video."""
    (root / "data").mkdir(parents=True)
    for name in ("bunny", "bikes"):
        clip = {"bunny": "bbb_espeak_narration_30s.mp4", "bikes": "bikes.mp4"}[name]
        shutil.copy(CLIPS / clip, root / f"data/{name}.mp4")
    rows = [
        {
            "video_id": name, "videoID": name, "duration": "short", "domain": "Knowledge",
            "sub_category": "Law", "question_id": f"{name}-{q}", "task_type": "OCR Problems",
            "question": f"Which {q}?", "options": ["A. One.", "B. Two.", "C. Three."],
            "answer": "ABC"[q],
        }
        for name in ("bunny", "gone", "bikes")
        for q in range(3)
    ]  # fmt: skip
    (root / "videomme.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spans = [("bunny", 0, 5), ("gone", 0, 4), ("bunny", 6, 10)]
    lines = []
    for name, start, end in spans:
        video = {"type": "video", "video": f"data/{name}.mp4", "video_start": start, "video_end": end}
        words = [[start + i, start + i + 0.4, f"word{i}"] for i in range(3)]
        user = [video, {"type": "text", "text": "", "title": "A film", "previous": ""}]
        assistant = [{"type": "text_stream", "text_stream": words}]
        conversation = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
        lines.append(json.dumps(conversation))
    offsets = np.cumsum([0, *(len(line) + 1 for line in lines[:-1])]).tolist()
    (root / "clips.jsonl").write_text("\n".join([*lines, json.dumps(offsets)]) + "\n")


def sharded_model(tokenizer_path, mesh):
    """(tokenizer, architecture, parameters sharded over the mesh); values do not depend on the mesh."""
    tokenizer = open_tokenizer(tokenizer_path)
    config = fit_vocabulary(preset("tiny"), tokenizer)
    config = dataclasses.replace(
        config,
        text=dataclasses.replace(config.text, layers=1, max_positions=4096),
        vision=dataclasses.replace(config.vision, depth=1),
    )
    host_params = jax.tree.map(lambda x: 8 * x, initial_params(config))
    params = jax.tree.map(
        lambda x, s: jax.make_array_from_callback(x.shape, s, lambda i: x[i]),
        host_params, param_shardings(config, mesh),
    )  # fmt: skip
    return tokenizer, config, params


def choice_evaluator(root, config, compute, tokenizer, rows, mesh):
    """The multiple-choice evaluator of the Video-MME data, for micro-batches of so many rows."""
    shape = RowShape(tokens=256, windows=8, window=64, targets=8)
    return PackedChoiceEvaluator(
        "videomme",
        str(root),
        20,
        FRAMES,
        BUDGET,
        config,
        compute,
        tokenizer,
        "mrope",
        shape,
        rows,
        mesh,
    )


def evaluate_on_mesh(root, tokenizer_path, sizes):
    """Metrics of both evaluators on a mesh, and how often each of them called `poll`."""
    mesh = make_mesh(MeshConfig(**sizes))
    tokenizer, config, params = sharded_model(tokenizer_path, mesh)
    compute = ComputeConfig(dtype="float32", remat="none")
    choice = choice_evaluator(root, config, compute, tokenizer, mesh.shape["fsdp"], mesh)
    clips = ClipCommentaryEvaluator(
        str(root / "clips.jsonl"), 9, BUDGET, config, compute, tokenizer, STREAM, mesh
    )
    metrics, polls = [], []
    with jax.set_mesh(mesh):  # as the training loop sets it
        for evaluator in (choice, clips):
            polls.append(0)

            def poll():
                polls[-1] += 1
                return False

            metrics.append(evaluator(params, poll))
        assert choice(params, lambda: True) is None
        assert clips(params, lambda: True) is None
    return metrics, polls


if __name__ == "__main__":
    import sys

    from livecc_jax.parallel.processes import initialize_processes

    initialize_processes()
    print(json.dumps(evaluate_on_mesh(Path(sys.argv[1]), sys.argv[2], {"fsdp": 2})), flush=True)
