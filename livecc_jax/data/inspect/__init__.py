"""Examples and rows for a human to look at."""
