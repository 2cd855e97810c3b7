"""The names of the position modes, where even `livecc --help` can afford to read them."""

MODES = ("sequential", "hybrid", "mrope")
