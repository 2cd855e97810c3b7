"""A disk that is full, for code that runs in the test's own process."""

import contextlib
import resource


@contextlib.contextmanager
def file_size_limit(limit):
    """Lets no file grow beyond so many bytes: what does not fit is refused, as by a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
