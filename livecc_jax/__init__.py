"""LiveCC in JAX: a streaming video-language model that comments while it watches."""

from livecc_jax.version import __version__

__all__ = ["__version__"]
