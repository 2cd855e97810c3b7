"""Evaluation: benchmarks with their published scoring, metrics of commentary, a judge, reports."""
