"""Metrics of evaluation: accuracy, commentary, perplexity, win rates, and paired tests of two runs."""
