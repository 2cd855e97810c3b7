"""The network laid out for inference: weights, caches, attention, sampling, compiled steps."""
