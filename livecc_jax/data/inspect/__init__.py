"""Shows examples and packed rows as text and pictures, and measures how fast rows are built."""
