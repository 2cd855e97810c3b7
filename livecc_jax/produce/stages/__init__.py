"""The stages that need no weights: choosing by metadata, words, language, cutting into clips."""
