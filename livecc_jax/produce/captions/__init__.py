"""Words of caption and transcript files: one file a format, and one (`words`) for what all have in
common.

`read.read_captions` is the way in. A format's reader gives cues; docs/produce.md has the rules by
their numbers.
"""
