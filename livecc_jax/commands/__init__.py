"""The commands of `livecc`, one file each. Only these files print."""
