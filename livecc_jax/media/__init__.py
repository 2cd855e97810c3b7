"""Video decoding, frame times, frame sampling, resizing and patches."""
