"""Writes timeline.json: tokens and rotary positions of conversations in transformers 4.50.

4.57 gives the same positions, 5.x others after long videos (docs/positions.md). For each conversation
it holds the token ids of the rendered template with Qwen2's vocabulary, and the positions of
`get_rope_index`. It needs
`pip install transformers==4.50.0 torch==2.13.0 jinja2`:

    python -m tests.goldens.make_timeline
"""

import json
import lzma
from pathlib import Path

import jinja2
import tokenizers
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

VIDEO, IMAGE = 151656, 151655

# role, then text or ["video" | "image", [t, h, w]]
CONVERSATIONS = {
    "stream": [
        ["user", "Time=0.0-3.0s", ["video", [3, 4, 6]], "Big Buck Bunny"],
        ["assistant", "A big rabbit comes out ..."],
        ["user", "Time=3.0-4.0s", ["video", [1, 4, 6]]],
        ["assistant", " ..."],
        ["user", "Time=4.0-5.0s", ["video", [1, 4, 6]]],
        ["assistant", "of his burrow. Naïve — 日本 ..."],
    ],
    "long_video": [
        ["user", ["video", [40, 4, 6]], "What happens?\nA. It rains\nB. It snows"],
        ["assistant", "It snows."],
        ["user", "Why?"],
        ["assistant", "Because it is cold."],
    ],
    "images": [
        ["user", "First ", ["image", [1, 6, 4]], "and second ", ["image", [1, 2, 8]], "?"],
        ["assistant", "Two."],
    ],
    "text": [["system", "Be brief."], ["user", "Hello"], ["assistant", "Hi."]],
}


def main():
    from livecc_jax.families.qwen2_vl import CHAT_TEMPLATE

    raw = lzma.decompress((ROOT / "data/tokenizer/tokenizer.json.xz").read_bytes()).decode()
    tokenizer = tokenizers.Tokenizer.from_str(raw)
    template = jinja2.Template(CHAT_TEMPLATE)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(
                vision_start_token_id=151652, image_token_id=IMAGE, video_token_id=VIDEO,
                num_hidden_layers=1, vision_config={"depth": 1},
            )
        )  # fmt: skip
    out = {}
    for name, turns in CONVERSATIONS.items():
        grids, messages = {"video": [], "image": []}, []
        for role, *content in turns:
            items = []
            for item in content:
                if isinstance(item, str):
                    items.append({"type": "text", "text": item})
                else:
                    items.append({"type": item[0]})
                    grids[item[0]].append(item[1])
            messages.append({"role": role, "content": items})
        text = template.render(messages=messages)
        for kind in ("video", "image"):
            parts = text.split(f"<|{kind}_pad|>")
            sizes = [t * h * w // 4 for t, h, w in grids[kind]]
            text = parts[0] + "".join(
                f"<|{kind}_pad|>" * n + part for n, part in zip(sizes, parts[1:], strict=True)
            )
        ids = tokenizer.encode(text).ids
        positions, _ = model.get_rope_index(
            torch.tensor([ids]),
            image_grid_thw=torch.tensor(grids["image"]) if grids["image"] else None,
            video_grid_thw=torch.tensor(grids["video"]) if grids["video"] else None,
        )
        out[name] = {"turns": turns, "tokens": ids, "positions": positions[:, 0].tolist()}
    (HERE / "timeline.json").write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
