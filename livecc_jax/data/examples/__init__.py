"""Encodes examples: their frames, their tokens, and how much of a packed row they fill."""
