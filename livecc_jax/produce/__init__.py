"""Data production: from videos and their captions, or videos alone, to a training corpus.

The line follows Figure 2 of LiveCC (arXiv 2504.16030); docs/produce.md has every stage with its
rule and its published numbers. `records` and `parameters` are what all parts share.

**Stages.** A stage is a plain function

    stage(record, parameters, models) -> list[record | Rejection]

that can be used alone and keeps nothing between calls:

- `record` is a `Source` (one video) or a `Clip` (one cut of it). Records are frozen; a stage
  returns new ones.
- `parameters` is a `Parameters` value; a stage reads the fields that `STAGE_FIELDS` lists for it,
  and no others, so that `stage_digest` says when its results are out of date.
- `models` is what the stages of one worker share and load once (`models.Models`). A stage that needs no
  model ignores it.
- The list holds what takes the record's place: the record itself, perhaps changed; several clips of one
  source; or `Rejection`s, each with the stage, the reason and the measured value. It is never empty:
  nothing disappears without a line in `rejected.jsonl`.
- A stage raises only for what is wrong with the run (a model that cannot be opened, a full disk).
  What is wrong with one record is a rejection of that record.

The same record and parameters give the same list, on every machine and in every order. Stages over
all clips at once (duplicates, decontamination) take the clips in source order.
"""
