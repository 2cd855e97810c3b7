"""Writes tied_heads.json: which output head transformers uses when config.json and weights disagree.

Each case has the field `tie_word_embeddings` at the top ("outer") and in text_config ("inner"; null:
absent), and a head in the weights that is absent, the same as the embedding, or another. The file in
this folder was made with transformers 5.24.0. It needs `pip install transformers torch==2.13.0`, and a
checkpoint with an untied head and a nested config.json:

    python -m tests.goldens.make_tied_heads CHECKPOINT
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent


def main():
    """Writes the file."""
    import transformers

    from tests.checkpoints.test_tied_head import EMBED, HEAD, write_case

    source = Path(sys.argv[1])
    stored, cases = load_file(source / "model.safetensors"), []
    flags = (None, False, True)
    for nested, outer, inner, head in itertools.product(
        (True, False), flags, flags, ("none", "same", "own")
    ):
        if not nested and inner is not None:
            continue
        case = {"nested": nested, "outer": outer, "inner": inner, "stored": head}
        with tempfile.TemporaryDirectory() as folder:
            write_case(source, Path(folder) / "model", case)
            model = transformers.Qwen2VLForConditionalGeneration.from_pretrained(Path(folder) / "model")
            used = model.lm_head.weight.detach().float().numpy()
        names = {"own": HEAD, "embedding": EMBED}
        found = [k for k, name in names.items() if np.array_equal(used, stored[name])]
        cases.append({**case, "head": found[0] if found else "random"})
    content = ",\n".join(json.dumps(case) for case in cases)
    file = HERE / "tied_heads.json"
    file.write_text(f'{{"{transformers.__version__}": [\n{content}\n]}}\n')


if __name__ == "__main__":
    main()
