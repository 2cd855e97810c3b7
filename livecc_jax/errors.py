"""Error types. Each message is one sentence that names the file or field at fault.

The command line prints the message of a `LiveCCError` and exits with code 2. Any other exception is a
bug and keeps its traceback.
"""


class LiveCCError(Exception):
    """Base class of all errors that a user can cause and correct."""


class ConfigError(LiveCCError):
    """A configuration field or command-line option is unknown or not valid."""


class DataError(LiveCCError):
    """An annotation file, index or record is malformed."""


class ExampleError(DataError):
    """One example cannot be used (too short, silent, words out of order)."""


class MediaError(LiveCCError):
    """A video or image cannot be read or used."""


class TokenizerError(LiveCCError):
    """Tokenizer files are missing or unusable."""


class CheckpointError(LiveCCError):
    """A checkpoint is missing, incomplete, or does not match the model."""


class OutputError(LiveCCError):
    """A file cannot be written: the disk is full, or permission is missing."""
