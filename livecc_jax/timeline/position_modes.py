"""Names of the position modes; a file of its own, so that `livecc --help` reads them quickly."""

POSITION_MODES = ("sequential", "hybrid", "mrope")
