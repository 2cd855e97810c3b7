"""Preparing weights for decoding."""

import pytest

from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.errors import ConfigError


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"precision 'fp4' is not one of weights, fp8"):
        prepare_weights({}, precision="fp4")
