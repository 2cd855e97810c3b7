"""A tokenizer small enough for the tiny model: a letter a token, and " ..." one token of its own.

Both sides of the streaming goldens use it; it follows `livecc_jax.text.tokenizer.Tokenizer`.
"""

from tests.goldens import tiny_weights as tiny

SILENCE = 99


class Letters:
    """`special` is any object with the seven ids, so that this file needs nothing installed."""

    vocab_size = tiny.VOCAB
    silence_id = SILENCE

    def __init__(self, special=None):
        self.special = special

    def encode(self, text):
        ids = []
        for i, piece in enumerate(text.split(" ...")):
            ids += [SILENCE] * (i > 0) + [ord(c) % SILENCE for c in piece]
        return ids

    def decode(self, ids):
        return "".join(" ..." if i == SILENCE else chr(33 + i) for i in ids if i < tiny.VISION_START)
