"""Checkpoints on disk: HuggingFace layout and Orbax runs."""
