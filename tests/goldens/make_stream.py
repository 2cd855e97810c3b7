"""Writes stream.npz: streaming in transformers 4.50 and in the released code (livecc-utils).

It holds the logits of one teacher-forced forward pass over a conversation of several turns, with 3-D
and with 1-D positions, and the tokens of the released turn-by-turn generation. It needs
`pip install transformers==4.50.0 torch==2.13.0` and, with --no-deps, `livecc-utils==0.0.2`:

    python -m tests.goldens.make_stream
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

from tests.goldens import tiny_weights as tiny
from tests.goldens.letters import LetterTokenizer
from tests.goldens.make_model import build

HERE = Path(__file__).parent
TURNS = 7
HEIGHT, WIDTH = 56, 84
QUERY = "go on"
ANSWERS = ["one two ...", " ...", "three ...", "four five six ...", " ...", "x ...", "seven ..."]
MAX_NEW_TOKENS = 6
END_BIAS = 2.5  # scales the head's row of <|im_end|>, so that only some turns reach the token limit


def frames(turn):
    """Returns the frames of a turn, uint8 [F, H, W, 3]: six, then two."""
    rng = np.random.RandomState(500 + turn)
    return rng.randint(0, 256, (2 if turn else 6, HEIGHT, WIDTH, 3)).astype(np.uint8)


def patches(turn):
    """Returns patches float32 [n, 1176], in the order of `patchify`, and their grid."""
    x = frames(turn)
    t, h, w = len(x) // 2, HEIGHT // 14, WIDTH // 14
    x = x.reshape(t, 2, h // 2, 2, 14, w // 2, 2, 14, 3).transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return tiny.normalized(x.reshape(t * h * w, 1176)), (t, h, w)


def prompt(turn, first):
    """Returns the ids of a turn's prompt; a later one begins with the end of the previous answer."""
    encode = LetterTokenizer().encode
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
    """Returns the untied model with a scaled head row for the end of a turn."""
    network = build(False)
    with torch.no_grad():
        network.lm_head.weight[tiny.IM_END] *= END_BIAS
    return network


def teacher_forced(network):
    """Returns the logits that the decoder would sample from, in two position modes."""
    ids, indices = [], []
    for turn in range(TURNS):
        ids += prompt(turn, turn == 0)
        answer = LetterTokenizer().encode(ANSWERS[turn])
        indices += range(len(ids) - 1, len(ids) + len(answer))
        ids += answer
    arguments = {
        "input_ids": torch.tensor([ids]),
        "pixel_values_videos": torch.from_numpy(np.concatenate([patches(i)[0] for i in range(TURNS)])),
        "video_grid_thw": torch.tensor([patches(i)[1] for i in range(TURNS)]),
    }
    line = torch.arange(len(ids)).expand(3, 1, -1)
    with torch.no_grad():
        mrope = network(**arguments).logits[0, indices].numpy()
        sequential = network(**arguments, position_ids=line).logits[0, indices].numpy()
    return {"ids": np.array(ids), "looked": indices, "mrope": mrope, "sequential": sequential}


def released(network):
    """Runs the released streaming loop: generate, keep the cache and all ids but the last."""
    folder = importlib.util.find_spec("livecc_utils").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("patch", f"{folder}/generation_patch.py")
    patch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patch)
    network.prepare_inputs_for_generation = functools.partial(
        patch.prepare_multiturn_multimodal_inputs_for_generation, network
    )
    network.rope_deltas = None
    past_ids, cache, answers = None, None, []
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
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=[tiny.IM_END, tiny.END],
            pad_token_id=tiny.END,
        )
        cache, past_ids = out.past_key_values, out.sequences[:, :-1]
        new = out.sequences[0, ids.shape[1] :].tolist()
        new = [i for i in new if i not in (tiny.IM_END, tiny.END)]
        answers.append(new + [-1] * (MAX_NEW_TOKENS - len(new)))
    return np.array(answers)


def main():
    """Write the file."""
    network = model()
    arrays = teacher_forced(network)
    arrays["said"] = released(network)
    np.savez_compressed(HERE / "stream.npz", **arrays)
    print(arrays["said"])


if __name__ == "__main__":
    main()
