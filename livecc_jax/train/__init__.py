"""Training: configuration, state, loss, optimizer, compiled step, and the loop with its hooks."""
