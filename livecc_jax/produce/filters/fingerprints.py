"""MinHash signatures of what is said in clips, and the clips that say nearly the same.

A text is the set of its runs of five words, without regard to case and punctuation. The signature
(rensa's R-MinHash) is cut into bands; clips that share a band are compared exactly.
"""

from __future__ import annotations

import base64
import unicodedata

import numpy as np

from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection

SEED = 42
BAND_ROWS = 6  # values of a signature in a band: pairs of similarity 0.8 share one of 21 with P = 0.998
MEASURE = "text_bands"


def fingerprints(
    clip: Clip, parameters: Parameters, models: Models | None = None
) -> list[Clip | Rejection]:
    """Adds the bands of a clip's MinHash signature to its measures, under `text_bands`.

    Args:
        clip: A clip.
        parameters: Reads `shingle_words` and `minhash_permutations`.
        models: Not used.
    """
    import dataclasses

    keys = text_bands(clip.text, parameters.shingle_words, parameters.minhash_permutations)
    coded = base64.b64encode(keys.tobytes()).decode("ascii")
    return [dataclasses.replace(clip, measures={**clip.measures, MEASURE: coded})]


def plain_words(text: str) -> list[str]:
    """Returns the words of a text without case and without punctuation; words of it alone vanish."""
    # Apostrophes join: "it's", "it\u2019s" and "its" are the same word.
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "").replace("'", "")
    if not folded.isascii():
        kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in folded)
        return "".join(kept).split()
    return folded.translate(_SPACES).split()


_SPACES = {i: " " for i in range(128) if not chr(i).isalnum()}


def shingles(text: str, words: int) -> set[str]:
    """Returns the runs of so many words of a text; a shorter text is one run."""
    plain = plain_words(text)
    if not plain:
        return set()
    return {" ".join(plain[i : i + words]) for i in range(max(1, len(plain) - words + 1))}


def similarity(a: set[str], b: set[str]) -> float:
    """Returns the Jaccard similarity of two sets of shingles; 0 where both are empty."""
    union = len(a | b)
    return len(a & b) / union if union else 0.0


def text_bands(text: str, words: int, permutations: int) -> np.ndarray:
    """Returns a hash of each band of a text's MinHash signature: uint64 [bands]; none without words."""
    import hashlib

    from rensa import RMinHash

    found = shingles(text, words)
    if not found:
        return np.zeros(0, np.uint64)
    minhash = RMinHash(num_perm=permutations, seed=SEED)
    minhash.update(sorted(found))
    values = np.array(minhash.digest(), np.uint32)
    count = max(1, len(values) // BAND_ROWS)
    bands = [
        hashlib.blake2b(band.tobytes(), digest_size=8, salt=i.to_bytes(2, "little")).digest()
        for i, band in enumerate(np.array_split(values[: count * BAND_ROWS], count))
    ]
    return np.frombuffer(b"".join(bands), np.uint64)
