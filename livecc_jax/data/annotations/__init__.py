"""Annotation files and datasets, parsed into examples."""
