"""One file a command of `livecc`; only these print."""
