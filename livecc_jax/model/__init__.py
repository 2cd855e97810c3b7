"""The network and nothing else: sizes, layers, attention, vision tower, decoder, adapters, FLOPs."""
