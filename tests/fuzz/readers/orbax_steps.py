"""Steps of training runs: what a damaged step gives is the weights that were saved, or an error."""

from pathlib import Path

import numpy as np

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import RunDirectory
from tests.fuzz.reader import Reader, all_files

RUN, META = "run", {"step": 1, "rows": 8}


def _params():
    from flax import traverse_util

    from livecc_jax.checkpoints.weight_names import weight_name_table
    from tests.support.checkpoints import tiny_config

    # Ascending numbers: another byte anywhere is another value.
    flat = {
        e.path: np.arange(np.prod(e.full_shape), dtype=np.float32).reshape(e.full_shape)
        for e in weight_name_table(tiny_config())
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _prepare(folder: Path) -> None:
    from tests.support.checkpoints import tiny_config

    run = RunDirectory(folder / RUN, asynchronous=False)
    run.create(tiny_config(), LiveCCBlock(), None, {"seed": 3})
    run.save(1, _params(), None, META)
    run.close()


def _read(folder: Path, file: str):
    checkpoint = open_checkpoint(folder / RUN)
    meta = RunDirectory(folder / RUN).restore_meta(1)
    return checkpoint.config, checkpoint.load_params(), meta


def _differs(folder: Path, file: str, value) -> str:
    import jax

    from tests.support.checkpoints import tiny_config

    config, params, meta = value
    if Path(file).name == "config.json":
        return ""  # compared by the reader of configs
    if meta != META:
        return f"meta is {meta!a:.80}"
    if config != tiny_config():
        return "another architecture"
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == b.tobytes(), params, _params())
    return "" if all(jax.tree.leaves(same)) else "other weights than were saved"


def _files(folder: Path) -> list[str]:
    return [f"{RUN}/{name}" for name in all_files(folder / RUN) if (folder / RUN / name).stat().st_size]


READER = Reader("orbax", _prepare, _files, _read, _differs, is_text=True, share=0.35, fast=4)
