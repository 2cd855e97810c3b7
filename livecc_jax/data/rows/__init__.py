"""Packed rows: which examples share one, and building them in a pipeline."""
