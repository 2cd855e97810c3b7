"""Benchmarks: their questions, their result files, their rules for reading answers."""
