"""Annotations, index, packing and the input pipeline."""
