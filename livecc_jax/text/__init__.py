"""Tokenizers behind one small protocol: HuggingFace and SentencePiece."""
