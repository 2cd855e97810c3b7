"""Reads the files that annotations name: local or in buckets, with caches of copies and timestamps."""
