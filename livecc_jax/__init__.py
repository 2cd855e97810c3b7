"""LiveCC in JAX: a streaming video-language model that comments while it watches."""

__version__ = "0.1.0"
