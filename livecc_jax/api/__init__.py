"""What `import livecc_jax` offers, one file a task; the commands call the same functions."""
