"""Malformed input for every reader: `make fuzz` (docs/reliability.md).

A good file is damaged at random and read. The reader must accept it or raise a LiveCCError, within
limits of time and memory, and a value that it returns must be the one that an independent reader
finds.
"""
