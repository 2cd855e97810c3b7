"""Error types. Each message is one sentence that names the file or field at fault.

The command line prints the message of a `LiveCCError` and exits with code 2. Any other exception is a
bug and keeps its traceback.
"""

from livecc_jax.redact import displayable


class LiveCCError(Exception):
    """Base class of all errors that a user can cause and correct.

    Messages reach terminals, logs and reports, so passwords in addresses are hidden in them and control
    characters are written out.

    Args:
        message: A sentence.
    """

    def __init__(self, *message: object) -> None:
        super().__init__(*(displayable(m) if isinstance(m, str) else m for m in message))


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
