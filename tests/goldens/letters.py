"""A tokenizer for the tiny model: each letter is a token, and " ..." is one token.

Our side and transformers' side of the streaming goldens use it. It implements
`livecc_jax.text.tokenizer.Tokenizer`.
"""

from tests.goldens import tiny_weights as tiny

SILENCE = 99


class LetterTokenizer:
    """The tokenizer; `special` is any object with the seven ids, so this file needs no package."""

    vocab_size = tiny.VOCAB
    silence_id = SILENCE

    def __init__(self, special=None):
        self.special = special

    def encode(self, text):
        ids = []
        for i, part in enumerate(text.split(" ...")):
            ids += [SILENCE] * (i > 0) + [ord(c) % SILENCE for c in part]
        return ids

    def decode(self, ids):
        return "".join(" ..." if i == SILENCE else chr(33 + i) for i in ids if i < tiny.VISION_START)
