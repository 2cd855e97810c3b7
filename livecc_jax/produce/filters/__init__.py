"""Filters that look at many clips, at pictures, or ask a model: duplicates, evaluation sets, the text
loss, faces, shots, and the prompts of fine-tuning. `livecc_jax.produce` says what a stage is."""
