"""Adds to positions.json the rotary positions that the installed transformers gives conversations.

For each conversation it holds the position of every token that is not of a picture (all three axes are
equal there), and the position at which `generate` would continue. The file in this folder was made with
4.57.6, the last of version 4, and with 5.24.0. It needs `pip install transformers torch==2.13.0`:

    python -m tests.goldens.make_positions
"""

import inspect
import itertools
import json
from pathlib import Path

HERE = Path(__file__).parent
START, END, VIDEO, IMAGE = 151652, 151653, 151656, 151655

# Each part is a number of text tokens, or a picture's id and its grid (frame pairs, rows, columns).
SIZES = ((4, 4), (2, 10), (28, 52), (52, 28))
CONVERSATIONS = {
    **{
        f"question_{pairs}x{rows}x{columns}": [9, (VIDEO, (pairs, rows, columns)), 12, 7]
        for pairs, (rows, columns) in itertools.product((1, 2, 3, 13, 14, 26, 27, 40), SIZES)
    },
    "stream": [9, (VIDEO, (3, 8, 14)), 3, (VIDEO, (1, 8, 14)), 4, (VIDEO, (1, 8, 14)), 6],
    "two_videos": [9, (VIDEO, (20, 4, 6)), 5, (VIDEO, (9, 2, 4)), 12],
    "video_and_image": [9, (VIDEO, (20, 4, 6)), 5, (IMAGE, (1, 8, 10)), 12],
    "text": [9, 12],
}


def tokens_of(parts):
    """Returns the token ids of a conversation, and the grids of its pictures."""
    tokens, grids = [], []
    for part in parts:
        if isinstance(part, int):
            tokens += range(100, 100 + part)
        else:
            kind, (pairs, rows, columns) = part
            tokens += [START, *[kind] * (pairs * rows * columns // 4), END]
            grids.append((pairs, rows, columns))
    return tokens, grids


def main():
    """Writes the file."""
    import torch
    import transformers
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(
                text_config={"num_hidden_layers": 1, "hidden_size": 1024, "num_attention_heads": 8},
                vision_config={"depth": 1, "hidden_size": 1024},
                vision_start_token_id=START, image_token_id=IMAGE, video_token_id=VIDEO,
            )
        )  # fmt: skip
    get_rope_index = model.model.get_rope_index
    out = {}
    for name, parts in CONVERSATIONS.items():
        tokens, _ = tokens_of(parts)
        ids = torch.tensor([tokens])
        by_kind = {kind: [p[1] for p in parts if not isinstance(p, int) and p[0] == kind]
                   for kind in (IMAGE, VIDEO)}  # fmt: skip
        grids = [torch.tensor(grid) if grid else None for grid in by_kind.values()]
        arguments = dict(zip(("image_grid_thw", "video_grid_thw"), grids))
        if "mm_token_type_ids" in inspect.signature(get_rope_index).parameters:
            arguments["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        positions, _ = get_rope_index(input_ids=ids, **arguments)
        text = positions[:, 0][:, (ids[0] != VIDEO) & (ids[0] != IMAGE)]
        assert (text == text[0]).all()
        out[name] = {"text": text[0].tolist(), "next": int(positions.max()) + 1}
    file = HERE / "positions.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    known[transformers.__version__] = out
    lines = [f'"{v}": {{\n' + ",\n".join(f'"{n}": {json.dumps(x)}' for n, x in c.items()) + "\n}"
             for v, c in sorted(known.items())]  # fmt: skip
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
