"""The index: every example's sizes and frame times, as columns on disk."""
