"""Loss, optimizer, training step and loop."""
