"""The cluster bootstrap, percentile intervals and McNemar's exact test."""

import math

import numpy as np
import pytest

from livecc_jax.evaluate.metrics.statistics import (
    ClusterBootstrap,
    mcnemar_exact,
    percentile_interval,
)


def test_bootstrap():
    """Resampling is seeded and by cluster; with one item a cluster, the width is the binomial one."""
    values = np.array([[1.0], [1.0], [0.0], [0.0]])
    totals = ClusterBootstrap(["a", "a", "b", "b"], 500).totals(values)
    assert set(np.unique(totals)) == {0.0, 2.0, 4.0}
    reversed_totals = ClusterBootstrap(["b", "b", "a", "a"], 500).totals(values[::-1])
    np.testing.assert_array_equal(ClusterBootstrap(["a", "a", "b", "b"], 500).totals(values), totals)
    assert reversed_totals.mean() == pytest.approx(totals.mean(), abs=0.3)
    rng = np.random.default_rng(1)
    answers = (rng.random((1000, 1)) < 0.6).astype(float)
    interval = percentile_interval(
        ClusterBootstrap([str(i) for i in range(1000)]).totals(answers)[:, 0] / 1000
    )
    half_width = 1.96 * math.sqrt(answers.mean() * (1 - answers.mean()) / 1000)
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.1)
    assert math.isnan(percentile_interval(ClusterBootstrap([], 10).totals(np.zeros((0, 1)))[:, 0]).low)


def test_the_same_resamples_for_one_cluster_and_for_chunks():
    """The documented draws: integers of default_rng(seed), [256, clusters] at a time."""
    values = np.arange(21.0).reshape(7, 3)
    names = [str(i) for i in range(7)]
    rng = np.random.default_rng(5)
    expected = [values[rng.integers(0, 7, (n, 7))].sum(1) for n in (256, 44)]
    np.testing.assert_allclose(
        ClusterBootstrap(names, 300, 5).totals(values), np.concatenate(expected), rtol=1e-12
    )
    alone = ClusterBootstrap(["a", "a"], 3).totals(np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(alone, [[3.0]] * 3)


def test_mcnemar():
    # A fair coin thrown five times: P(0 or 5 heads) = 2/32. Concordant items do not enter.
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(900, 1200) < 1e-9
