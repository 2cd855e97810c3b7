"""Verifies that two checkpoints, or a checkpoint and transformers, compute the same values."""
