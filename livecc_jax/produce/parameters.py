"""Every number and switch of data production in one value; the defaults are the published ones.

Sources: LiveCC (arXiv 2504.16030), section 3 and Figure 2, and its released scripts where the paper
    gives no number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from livecc_jax.errors import ConfigError
from livecc_jax.produce.records import SCHEMA, digest

PRETRAIN_KIND, SFT_KIND = "pretrain", "sft"

# YouTube's names of the seven categories of the fine-tuning set.
SFT_CATEGORIES = (
    "Howto & Style",
    "Science & Technology",
    "Education",
    "Autos & Vehicles",
    "Sports",
    "Gaming",
    "News & Politics",
)

# What `--filters` names, in the order of their cost. Cutting, with its rate of words, is no filter.
FILTERS = (
    "size",
    "duration",
    "title",
    "category",
    "licence",
    "language",
    "distinct",
    "duplicates",
    "decontamination",
    "text",
    "faces",
    "shots",
    "prompts",
)


@dataclass(frozen=True)
class Parameters:
    """Parameters of all stages. `PRETRAIN` and `SFT` are the published values.

    Attributes:
        kind: "pretrain" or "sft".
        filters: Names of the filters that run, of FILTERS. Those that need a model run only where
            one is named.
        min_side: Least length of the displayed picture's shorter side, in pixels.
        min_duration_ms: Least duration of a video.
        max_duration_ms: Greatest duration of a video.
        categories: Categories that are kept; empty keeps all.
        licences: Licences that are kept, as `info["license"]` has them; empty keeps all.
        opt_out: Ids, channels and addresses that are never used, sorted.
        caption_language: Wanted language of captions, a code such as "en"; "" takes any.
        longest_word_ms: Most time a word with a time of its own may take, since caption lines stay
            on while nothing is said.
        speech_model: Name or folder of the faster-whisper model for sources without words; "" for none.
        speech_beam: Beams of its search.
        speech_vad: Whether silence is left out by voice activity detection before recognition.
        language: Language that the words must be in; a two-letter code.
        min_language_probability: Least probability of that language.
        min_distinct_words: Least number of distinct words of a video.
        min_clip_ms: Least time from a clip's first word's start to its last word's end.
        max_clip_ms: Greatest such time.
        max_silence_ms: Greatest time between two words of a clip.
        min_words_per_second: Least rate of a clip; 0 for no bound.
        max_words_per_second: Greatest rate; 0 for no bound.
        sentence_starts: Whether a clip must begin with a sentence.
        with_previous: Whether a clip holds what is said before it.
        tail_ms: How far the window reaches beyond the last word's end. A word that ends after the
            last sampled frame would be lost, and frames come every 500 ms.
        trailing_silence_ms: Greatest silence after the last word that the window shows, never past
            the next word. 0 keeps to `tail_ms`.
        shingle_words: Words of a shingle, for near duplicates.
        minhash_permutations: Length of a MinHash signature.
        min_text_similarity: Jaccard similarity from which two texts are duplicates.
        max_picture_distance: Bits in which perceptual hashes of duplicates differ at most, of 64.
        duplicate_frames: Frames of a clip that are hashed; 0 compares no pictures.
        evaluation_sets: Files or folders that hold evaluation sets to stay away from.
        contamination_words: Length of a run of words that must not be shared with an evaluation set.
        text_model: Checkpoint that computes the text loss; "" for none.
        min_text_loss: Least mean loss in nats. The bounds belong to the model.
        max_text_loss: Greatest mean loss.
        text_max_tokens: Tokens of a text that are scored together with its prompt; longer previous
            text is cut at the front.
        face_model: Checkpoint, ONNX file or plug-in that judges talking heads; "" for none.
        face_frames: Frames of a clip that are judged.
        max_talking_head: P(Yes) of a talking head that is dropped already ("< 0.3" is kept).
        max_face_share: Greatest share of frames with a large face while someone speaks.
        min_face_side: Part of the picture's shorter side from which a face is large.
        max_shots_per_minute: Greatest rate of cuts; 0 for no bound.
        prompt_model: Endpoint or checkpoint that writes queries; "" for none.
        prompt_file: File with the instruction; "" for the one that is shipped.
    """

    kind: str
    filters: tuple[str, ...] = FILTERS
    # select
    min_side: int = 480
    min_duration_ms: int = 30_000
    max_duration_ms: int = 600_000
    categories: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    opt_out: tuple[str, ...] = ()
    # words
    caption_language: str = "en"
    longest_word_ms: int = 1_000
    speech_model: str = ""
    speech_beam: int = 5
    speech_vad: bool = True
    # language and distinct words
    language: str = "en"
    min_language_probability: float = 0.9
    min_distinct_words: int = 30
    # cut
    min_clip_ms: int = 30_000
    max_clip_ms: int = 240_000
    max_silence_ms: int = 3_000
    min_words_per_second: float = 1.0
    max_words_per_second: float = 4.0
    sentence_starts: bool = False
    with_previous: bool = True
    tail_ms: int = 600
    trailing_silence_ms: int = 0
    # duplicates and decontamination
    shingle_words: int = 5
    minhash_permutations: int = 128
    min_text_similarity: float = 0.8
    max_picture_distance: int = 6
    duplicate_frames: int = 0
    evaluation_sets: tuple[str, ...] = ()
    contamination_words: int = 13
    # text
    text_model: str = ""
    min_text_loss: float = 1.5
    max_text_loss: float = 6.5
    text_max_tokens: int = 4_096
    # faces
    face_model: str = ""
    face_frames: int = 8
    max_talking_head: float = 0.3
    max_face_share: float = 0.05
    min_face_side: float = 0.2
    # shots
    max_shots_per_minute: float = 0.0
    # prompts
    prompt_model: str = ""
    prompt_file: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for values that contradict each other."""
        if self.kind not in (PRETRAIN_KIND, SFT_KIND):
            raise ConfigError(f"kind must be {PRETRAIN_KIND} or {SFT_KIND}, not {self.kind!r}")
        if unknown := [name for name in self.filters if name not in FILTERS]:
            raise ConfigError(f"there is no filter {unknown[0]!r}; there are {', '.join(FILTERS)}")
        for low, high in _RANGES:
            if getattr(self, low) > (getattr(self, high) or float("inf")):
                raise ConfigError(
                    f"{low} ({getattr(self, low)}) is above {high} ({getattr(self, high)})"
                )
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:  # also false of nan
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be 0 to 1, but is {getattr(self, name)}")

    def with_filters(self, names: Iterable[str]) -> Parameters:
        """Returns these parameters with other filters, in the order in which filters run."""
        wanted = set(names)
        if unknown := sorted(wanted - set(FILTERS)):
            raise ConfigError(f"there is no filter {unknown[0]!r}; there are {', '.join(FILTERS)}")
        return dataclasses.replace(self, filters=tuple(name for name in FILTERS if name in wanted))


_RANGES = (
    ("min_duration_ms", "max_duration_ms"),
    ("min_clip_ms", "max_clip_ms"),
    ("min_words_per_second", "max_words_per_second"),
    ("min_text_loss", "max_text_loss"),
)
_NOT_NEGATIVE = (
    "min_side", "min_duration_ms", "min_clip_ms", "max_silence_ms", "tail_ms", "trailing_silence_ms",
    "longest_word_ms", "min_distinct_words", "min_words_per_second", "max_words_per_second",
    "max_picture_distance", "duplicate_frames", "min_text_loss", "max_text_loss",
    "max_shots_per_minute",
)  # fmt: skip
_AT_LEAST_ONE = (
    "shingle_words", "minhash_permutations", "contamination_words", "text_max_tokens", "face_frames",
    "speech_beam",
)  # fmt: skip
_SHARES = (
    "min_language_probability", "min_text_similarity", "max_talking_head", "max_face_share",
    "min_face_side",
)  # fmt: skip

PRETRAIN = Parameters(
    PRETRAIN_KIND, filters=tuple(n for n in FILTERS if n not in ("category", "prompts"))
)
SFT = Parameters(
    SFT_KIND,
    filters=tuple(n for n in FILTERS if n != "distinct"),
    categories=SFT_CATEGORIES,
    min_words_per_second=0.0,
    max_words_per_second=0.0,
    sentence_starts=True,
    with_previous=False,
    max_text_loss=5.0,
)
PUBLISHED = {PRETRAIN_KIND: PRETRAIN, SFT_KIND: SFT}

# The fields that each stage reads, in the order in which stages run. A result is out of date when
# one of its own stage's fields or of an earlier stage's has changed.
STAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "select": (
        "min_side", "min_duration_ms", "max_duration_ms", "categories", "licences", "opt_out",
    ),
    "words": ("caption_language", "longest_word_ms", "speech_model", "speech_beam", "speech_vad"),
    "language": ("language", "min_language_probability"),
    "distinct": ("min_distinct_words",),
    "cut": (
        "min_clip_ms", "max_clip_ms", "max_silence_ms", "min_words_per_second", "max_words_per_second",
        "sentence_starts", "with_previous", "tail_ms", "trailing_silence_ms",
    ),
    "duplicates": (
        "shingle_words", "minhash_permutations", "min_text_similarity", "max_picture_distance",
        "duplicate_frames",
    ),
    "decontamination": ("evaluation_sets", "contamination_words"),
    "text": ("text_model", "min_text_loss", "max_text_loss", "text_max_tokens"),
    "faces": (
        "face_model", "face_frames", "max_talking_head", "max_face_share", "min_face_side",
    ),
    "shots": ("max_shots_per_minute",),
    "prompts": ("prompt_model", "prompt_file"),
}  # fmt: skip

# The filters that belong to each stage; other stages have one of their own name, or always run
# (words, cut).
STAGE_FILTERS: dict[str, tuple[str, ...]] = {
    "select": ("size", "duration", "title", "category", "licence")
}

# Raised when a stage computes something else from the same fields.
STAGE_VERSIONS = {
    **dict.fromkeys(STAGE_FIELDS, 1),
    **{"select": 2, "words": 2, "cut": 2, "decontamination": 2},
}


def stage_digest(parameters: Parameters, stage: str) -> str:
    """Returns a digest of what decides the results of one stage, given its input.

    Args:
        parameters: The parameters.
        stage: Name of the stage, of STAGE_FIELDS.
    """
    filters = [name for name in STAGE_FILTERS.get(stage, (stage,)) if name in parameters.filters]
    values = {name: getattr(parameters, name) for name in STAGE_FIELDS[stage]}
    return digest([SCHEMA, parameters.kind, stage, STAGE_VERSIONS[stage], filters, values])


def digest_through(parameters: Parameters, stage: str) -> str:
    """Returns a digest of what decides the results of a stage and of all stages before it."""
    names = list(STAGE_FIELDS)
    return digest([stage_digest(parameters, name) for name in names[: names.index(stage) + 1]])


def parse_value(name: str, text: str) -> Any:
    """Returns the value of a parameter that is given as text; several texts are parted by commas.

    Args:
        name: Name of a field of `Parameters`.
        text: The value.

    Raises:
        ConfigError: There is no such field, or the text is no value of it.
    """
    kinds = {f.name: f.type for f in dataclasses.fields(Parameters)}
    if name not in kinds or name in ("kind", "filters"):
        names = [n for n in kinds if n not in ("kind", "filters")]
        raise ConfigError(f"there is no parameter {name!r}; there are {', '.join(names)}")
    kind = kinds[name]
    if kind == "str":
        return text
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind == "bool":
        if text.lower() in ("true", "yes", "1", "false", "no", "0"):
            return text.lower() in ("true", "yes", "1")
        raise ConfigError(f"{name} must be true or false, not {text!r}")
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError as error:
        raise ConfigError(f"{name} must be a number, not {text!r}") from error
