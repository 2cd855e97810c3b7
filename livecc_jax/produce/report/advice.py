"""What to change where a run leaves too little, by what it dropped most."""

from __future__ import annotations

from livecc_jax.produce.line.run import Produced

LITTLE = 0.2  # of the sources or clips that a stage took; below, it is named
REMEDIES = {
    "source": "lines or folders of the sources cannot be read; rejected.jsonl says which",
    "select": "metadata are missing or outside the bounds: `--set min_side=360`, `--set "
    "max_duration_ms=3600000`, or leave filters out with `--filters`; yt-dlp writes metadata with "
    "--write-info-json",
    "words": "there are no words: fetch captions (yt-dlp --write-subs --write-auto-subs), or name "
    "--speech-model",
    "language": "the words are in another language: --language CODE, or a lower `--set "
    "min_language_probability=0.7`",
    "distinct": "little is said: `--set min_distinct_words=10`",
    "cut": "words come too slowly, too fast or with long gaps: look at the reasons, then at `--set "
    "max_silence_ms=5000`, `--set min_clip_ms=15000` or `--set min_words_per_second=0.5`",
    "duplicates": "much is said twice: the sources may be listed twice; `--set "
    "min_text_similarity=0.95` keeps more",
    "decontamination": "the sources hold much of an evaluation set",
    "text": "the loss lies outside the bounds: they belong to the model, so look at the distribution "
    "and set min_text_loss and max_text_loss for yours",
    "faces": "many clips show talking heads: choose other channels or categories, or `--set "
    "max_talking_head=0.5`",
    "shots": "many clips are cut quickly: a higher `--set max_shots_per_minute=...`",
    "prompts": "the language model judges few clips to be commentary: read some of them, and the "
    "instruction, which `--set prompt_file=FILE` replaces",
}


def advice(produced: Produced) -> list[str]:
    """Returns a sentence for each stage that dropped most of what it took, the costliest first."""
    found = []
    for row in produced.statistics.funnel(produced.stages):
        before, after = row["before"], row["after"]
        if before and after / before < LITTLE:
            reasons = [
                (count, reason)
                for (stage, reason), count in produced.statistics.reasons.items()
                if stage == row["stage"]
            ]
            most = f" (most often: {max(reasons)[1]})" if reasons else ""
            text = (
                f"{row['stage']} kept {after:,} of {before:,} {row['unit']}{most}; "
                f"{REMEDIES.get(row['stage'], 'look at its reasons')}."
            )
            found.append((after / before, text))
    if not produced.statistics.clips and not found:
        found.append((0.0, "Nothing is left, and no single stage dropped most of it: see the funnel."))
    return [text for _, text in sorted(found)]
