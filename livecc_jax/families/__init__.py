"""Backbone families as plain data: pixel rules, weight names, special tokens, chat pieces, presets."""
