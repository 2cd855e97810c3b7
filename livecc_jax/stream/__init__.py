"""Streaming decoding: one conversation, turn by turn, over a key/value cache."""
