"""Serving: commentary on a source, many watched sources, files of commentary, statistics."""
