"""One example, encoded: frames, tokens, and what it takes of a packed row."""
