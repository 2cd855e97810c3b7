"""Streaming as transformers 4.50 and the released code (livecc-utils) compute it.

Run where these are installed: `pip install transformers==4.50.0 torch==2.13.0` and, with --no-deps,
`livecc-utils==0.0.2`.

    python -m tests.goldens.make_stream

It writes stream.npz beside itself: logits of one teacher-forced forward over a conversation of several
turns, in 3-D and in 1-D positions, and what the released turn-by-turn generation says.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import Letters
from tests.goldens.make_model import build

HERE = Path(__file__).parent
TURNS = 7
HEIGHT, WIDTH = 56, 84
QUERY = "go on"
ANSWERS = ["one two ...", " ...", "three ...", "four five six ...", " ...", "x ...", "seven ..."]
LIMIT = 6
END_BIAS = 2.5  # lengthens the head's row of <|im_end|>, so that some turns end and some are cut


def frames(turn):
    """uint8 [F, H, W, 3] of a turn: six, then two."""
    rng = np.random.RandomState(500 + turn)
    return rng.randint(0, 256, (2 if turn else 6, HEIGHT, WIDTH, 3)).astype(np.uint8)


def patches(turn):
    """float32 [n, 1176] and the grid, by the book: (t, h/2, w/2, 2, 2, channel, frame, row, column)."""
    x = frames(turn)
    t, h, w = len(x) // 2, HEIGHT // 14, WIDTH // 14
    x = x.reshape(t, 2, h // 2, 2, 14, w // 2, 2, 14, 3).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return tiny.normalized(x.reshape(t * h * w, 1176)), (t, h, w)


def prompt(turn, first):
    """Ids of a turn's prompt; `first` starts the conversation, others end the answer before."""
    encode = Letters().encode
    start, stop = (0, 3) if turn == 0 else (2 + turn, 3 + turn)
    _, (t, h, w) = patches(turn)
    ids = []
    if first:
        ids += [tiny.IM_START, *encode("system\nYou are a helpful assistant."), tiny.IM_END]
    else:
        ids += [tiny.IM_END]
    ids += [*encode("\n"), tiny.IM_START, *encode(f"user\nTime={start:.1f}-{stop:.1f}s")]
    ids += [tiny.VISION_START, *[tiny.VIDEO] * (t * h * w // 4), tiny.VISION_END]
    ids += [*encode(QUERY if first else ""), tiny.IM_END, *encode("\n")]
    return [*ids, tiny.IM_START, *encode("assistant\n")]


def model():
    """The untied model with a longer head row for the end of a turn."""
    network = build(False)
    with torch.no_grad():
        network.lm_head.weight[tiny.IM_END] *= END_BIAS
    return network


def teacher_forced(network):
    """Logits of the whole conversation, where the decoder would look, in two position modes."""
    ids, looked = [], []
    for turn in range(TURNS):
        ids += prompt(turn, turn == 0)
        answer = Letters().encode(ANSWERS[turn])
        looked += range(len(ids) - 1, len(ids) + len(answer))
        ids += answer
    given = {
        "input_ids": torch.tensor([ids]),
        "pixel_values_videos": torch.from_numpy(np.concatenate([patches(i)[0] for i in range(TURNS)])),
        "video_grid_thw": torch.tensor([patches(i)[1] for i in range(TURNS)]),
    }
    line = torch.arange(len(ids)).expand(3, 1, -1)
    with torch.no_grad():
        mrope = network(**given).logits[0, looked].numpy()
        sequential = network(**given, position_ids=line).logits[0, looked].numpy()
    return {"ids": np.array(ids), "looked": looked, "mrope": mrope, "sequential": sequential}


def released(network):
    """The released streaming loop: generate, keep the cache and all ids but the last."""
    where = importlib.util.find_spec("livecc_utils").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("patch", f"{where}/generation_patch.py")
    patch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patch)
    network.prepare_inputs_for_generation = functools.partial(
        patch.prepare_multiturn_multimodal_inputs_for_generation, network
    )
    network.rope_deltas = None
    past_ids, cache, said = None, None, []
    for turn in range(TURNS):
        ids = torch.tensor([prompt(turn, turn == 0)])
        if past_ids is not None:
            ids = torch.cat([past_ids, ids], dim=1)
        pixels, grid = patches(turn)
        out = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values_videos=torch.from_numpy(pixels),
            video_grid_thw=torch.tensor([grid]),
            past_key_values=cache,
            return_dict_in_generate=True,
            do_sample=False,
            repetition_penalty=1.05,
            max_new_tokens=LIMIT,
            eos_token_id=[tiny.IM_END, tiny.END],
            pad_token_id=tiny.END,
        )
        cache, past_ids = out.past_key_values, out.sequences[:, :-1]
        new = out.sequences[0, ids.shape[1] :].tolist()
        new = [i for i in new if i not in (tiny.IM_END, tiny.END)]
        said.append(new + [-1] * (LIMIT - len(new)))
    return np.array(said)


def main():
    """Write the file."""
    network = model()
    arrays = teacher_forced(network)
    arrays["said"] = released(network)
    np.savez_compressed(HERE / "stream.npz", **arrays)
    print(arrays["said"])


if __name__ == "__main__":
    main()
