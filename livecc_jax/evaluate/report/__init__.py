"""Presents scores: as text for a terminal, and as a report in Markdown, HTML and JSON."""
