"""Evaluation: benchmarks, their published scoring, a judge, metrics of commentary, reports."""
