"""Names of the position modes; a file of its own, so that `livecc --help` reads them quickly."""

from typing import Literal, get_args

PositionMode = Literal["sequential", "hybrid", "mrope"]
POSITION_MODES: tuple[str, ...] = get_args(PositionMode)
