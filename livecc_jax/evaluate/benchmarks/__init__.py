"""Benchmarks: their questions, their results files and their rules for scoring an answer."""
