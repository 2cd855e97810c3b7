"""Typed errors. Each message is one sentence that names the file or field at fault.

The command line turns any `LiveCCError` into that sentence and exit code 2; anything else
that escapes is a bug and keeps its traceback.
"""


class LiveCCError(Exception):
    """Base of every error a user can cause and mend."""


class ConfigError(LiveCCError):
    """A configuration field or command-line option is unknown or cannot work."""


class DataError(LiveCCError):
    """An annotation file, index or record is malformed."""


class ExampleError(DataError):
    """One example cannot be used (too short, silent, words out of order); others can."""


class MediaError(LiveCCError):
    """A video or image cannot be read or used."""


class TokenizerError(LiveCCError):
    """Tokenizer files are missing or unusable."""


class CheckpointError(LiveCCError):
    """A checkpoint is missing, incomplete, or does not match the model."""
