"""The names of the position modes, where even `livecc --help` can afford to read them."""

POSITION_MODES = ("sequential", "hybrid", "mrope")
