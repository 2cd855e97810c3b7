"""Examples as timelines: turns, words, chat template, supervision and positions. numpy only."""
