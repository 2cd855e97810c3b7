"""Running a benchmark with a model, resumable at every item."""
