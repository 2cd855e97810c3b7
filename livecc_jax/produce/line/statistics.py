"""What a run's report counts: how much went into each stage and came out, why, and how long it took."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from livecc_jax.produce.records import Clip, Rejection

SAMPLES = 4  # of each reason, and of what was kept
MAX_REASONS = 1000  # different reasons that are counted; plug-ins may make up any number
OTHER = "(other reasons)"
# Lower edges of the bins of each distribution; the last bin has no upper edge.
EDGES: dict[str, tuple[float, ...]] = {
    "length": (0, 30, 45, 60, 90, 120, 150, 180, 210, 240),
    "words_per_second": (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5),
    "text_loss": (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7),
    "face_share": (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75),
    "talking_head": (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75),
    "shots_per_minute": (0, 2, 5, 10, 20, 40),
}
# Stage and beginning of the reason of rejections whose value is a measure; a stage may reject for
# something else too, such as too many words for a model.
REJECTED_MEASURES = (
    ("text", "loss", "text_loss"),
    ("faces", "face in", "face_share"),
    ("faces", "talking head", "talking_head"),
    ("shots", "", "shots_per_minute"),
)


@dataclass
class Flow:
    """What one stage dropped.

    Attributes:
        sources: Whole sources.
        clips: Clips, or stretches that became none.
        milliseconds: Time from the first to the last word of these stretches.
    """

    sources: int = 0
    clips: int = 0
    milliseconds: int = 0


@dataclass
class Statistics:
    """Counts over all sources; the same for the same results, whoever made them.

    Attributes:
        sources: Number of sources.
        sources_kept: Sources with a clip that was kept.
        clips: Clips that were kept.
        clip_ms: Milliseconds of speech in these clips.
        words: Words in these clips.
        dropped: What each stage dropped, by name.
        reasons: Number of rejections by (stage, reason).
        reason_samples: The first rejections of each (stage, reason).
        kept_samples: Some clips that were kept.
        histograms: Counts in the bins of EDGES, by name of the measure.
        languages: Clips that were kept, by language.
        seconds: Seconds of one worker that each stage took, over all runs on this folder.
        prompt_tokens: Tokens of all requests and of all answers of the prompt stage.
    """

    sources: int = 0
    sources_kept: int = 0
    clips: int = 0
    clip_ms: int = 0
    words: int = 0
    dropped: dict[str, Flow] = field(default_factory=lambda: defaultdict(Flow))
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    reason_samples: dict[tuple[str, str], list[Rejection]] = field(default_factory=dict)
    kept_samples: list[Clip] = field(default_factory=list)
    histograms: dict[str, list[int]] = field(default_factory=dict)
    languages: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    prompt_tokens: list[int] = field(default_factory=lambda: [0, 0])

    def add_source(self, clips: Sequence[Clip], rejections: Sequence[Rejection]) -> None:
        """Counts what became of one source."""
        self.sources += 1
        self.sources_kept += bool(clips)
        for clip in clips:
            self._add_clip(clip)
        for rejection in rejections:
            self._add_rejection(rejection)

    def _add_clip(self, clip: Clip) -> None:
        self.clips += 1
        self.clip_ms += clip.speech_ms
        self.words += len(clip.words)
        self.languages[clip.language or "not stated"] += 1
        self._add_tokens(clip.measures.get("prompt_tokens"))
        self._count("length", clip.speech_ms / 1000)
        if clip.speech_ms:
            self._count("words_per_second", len(clip.words) / (clip.speech_ms / 1000))
        for name in ("text_loss", "face_share", "talking_head", "shots_per_minute"):
            if isinstance(value := clip.measures.get(name), int | float):
                self._count(name, value)
        # The first ones, then ever rarer ones, from all over the corpus.
        if self.clips <= SAMPLES or (self.clips & (self.clips - 1)) == 0:
            self.kept_samples.append(clip)

    def _add_rejection(self, rejection: Rejection) -> None:
        flow = self.dropped[rejection.stage]
        if rejection.clip is None:
            flow.sources += 1
        else:
            flow.clips += 1
            flow.milliseconds += rejection.clip[1] - rejection.clip[0]
        key = (rejection.stage, rejection.reason)
        if key not in self.reasons and len(self.reasons) >= MAX_REASONS:
            key = (rejection.stage, OTHER)
        self.reasons[key] += 1
        samples = self.reason_samples.setdefault(key, [])
        if len(samples) < SAMPLES:
            samples.append(rejection)
        value = rejection.value
        if rejection.stage == "prompts" and isinstance(value, dict):
            self._add_tokens(value.get("tokens"))
        for stage, reason, name in REJECTED_MEASURES:
            if (
                rejection.stage == stage
                and rejection.reason.startswith(reason)
                and isinstance(value, int | float)
            ):
                self._count(name, value)

    def _add_tokens(self, tokens: Any) -> None:
        if tokens is not None:
            self.prompt_tokens = [have + more for have, more in zip(self.prompt_tokens, tokens)]

    def _count(self, name: str, value: float) -> None:
        edges = EDGES[name]
        counts = self.histograms.setdefault(name, [0] * len(edges))
        if value == value and value >= edges[0]:
            counts[max(i for i, edge in enumerate(edges) if value >= edge)] += 1

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Counts the seconds of one unit."""
        for name, value in seconds.items():
            self.seconds[name] += value

    def funnel(self, stages: Sequence[str]) -> list[dict[str, Any]]:
        """Returns what went into each stage and what came out, in order.

        Args:
            stages: Names of the stages that ran, in order.

        Returns:
            For each: `stage`, `unit` (sources or clips), `before`, `dropped`, `after`, and
            `hours_after` where the unit is clips.
        """
        rows = []
        left = self.sources
        cut_at = stages.index("cut") if "cut" in stages else len(stages)
        for name in stages[: cut_at + 1]:
            gone = self.dropped[name].sources if name in self.dropped else 0
            rows.append(
                {
                    "stage": name,
                    "unit": "sources",
                    "before": left,
                    "dropped": gone,
                    "after": left - gone,
                }
            )
            left -= gone
        # Backwards from what was kept: each stage let through what it did not drop.
        later = [self.dropped[name] if name in self.dropped else Flow() for name in stages[cut_at:]]
        clips = self.clips + sum(flow.clips for flow in later)
        milliseconds = self.clip_ms + sum(flow.milliseconds for flow in later)
        for name, flow in zip(stages[cut_at:], later):
            clips, before = clips - flow.clips, clips
            milliseconds -= flow.milliseconds
            rows.append(
                {
                    "stage": name,
                    "unit": "clips",
                    "before": before,
                    "dropped": flow.clips,
                    "after": clips,
                    "hours_after": round(milliseconds / 3_600_000, 3),
                }
            )
        return rows
