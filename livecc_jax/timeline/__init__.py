"""Turns, words, chat template, supervision and positions. numpy only."""
