"""Run a benchmark with a model: multiple choice and commentary, resumable, also during training."""
