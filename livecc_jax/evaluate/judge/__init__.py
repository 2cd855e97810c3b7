"""A judge model that compares two commentaries."""
