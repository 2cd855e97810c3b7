"""Scores, intervals and comparisons, computed from answers and commentary."""
