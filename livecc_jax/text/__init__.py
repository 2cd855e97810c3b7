"""Tokenizers behind one small protocol."""
