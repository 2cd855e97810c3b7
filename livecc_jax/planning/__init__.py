"""`livecc plan`: what training or streaming takes on a TPU slice, computed without the slice."""
