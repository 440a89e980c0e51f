"""No reduction overflows or loses its largest terms.

Gradients are weights. In float32, a beta of 2e5 has an error of 0.01 nats, so the values of
gradients are compared in float64 only; in float32 they are finite and have the right sums.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import diagnostics, jackknife
from hvi_tf.bounds.streaming import Streamed, add_to_largest, no_largest
from tests.oracles.extremes import (
    DTYPES,
    FLOAT16,
    KINDS,
    SEED,
    VALUE_ERROR,
    Reference,
    extreme_densities,
    log_mean_exp,
    spread,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [0, 1, 100, 10_000])
def test_the_bound_and_its_gradient_are_exact(K, kind, dtype):
    for inner, outer in ((1.0, 1.0), (0.3, 0.7)):
        d = extreme_densities(kind, K, dtype=dtype)
        expected = Reference(d, inner, outer)
        with tf.GradientTape() as tape:
            tape.watch(d)
            value = bounds.bound(d, inner, outer)
        scale = VALUE_ERROR[dtype] * FLOAT16
        np.testing.assert_allclose(value, expected.bound, rtol=0, atol=8 * scale)
        upper = bounds.log_marginal_upper(bounds.inner_log_ratios(d, inner))
        np.testing.assert_allclose(upper, expected.upper, rtol=0, atol=4 * scale)
        factors = bounds.tau_path_factor(d, inner, outer), bounds.rho_path_factor(d, inner, outer)
        gradients = tape.gradient(value, d)
        if dtype == "float64":
            wanted = (*expected.gradient, expected.tau_factor, expected.rho_factor)
            for array, exact in zip((*gradients, *factors), wanted, strict=True):
                np.testing.assert_allclose(array, exact, rtol=1e-9, atol=1e-12)
        assert all(np.all(np.isfinite(a)) for a in (*gradients, *factors))
        for gradient, total in zip(
            gradients, (1, outer, -outer, -inner * outer, inner * outer), strict=True
        ):
            sums = np.sum(gradient, axis=tuple(range(gradient.shape.rank - 1)))
            np.testing.assert_allclose(sums, total, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_ratios_of_swapped_psi_are_exact_and_finite(kind):
    """r = v_0(c) / v_0(1) has mean 1 and no upper bound, and is capped to stay finite."""
    for K, inner in itertools.product((0, 1, 100), (0.0, 0.3, 1.0)):
        for dtype in DTYPES:
            d = extreme_densities(kind, K, dtype=dtype)
            ratios = bounds.swap_ratios(d, inner).numpy()
            assert np.all(np.isfinite(ratios)), (K, inner, dtype)
            if dtype == "float64":
                expected = Reference(d, inner)
                full = expected.full_beta[0] - log_mean_exp(expected.full_beta)
                r = np.exp(np.minimum(expected.beta[0] - expected.upper - full, 60.0))
                np.testing.assert_allclose(ratios, r, rtol=1e-9, atol=1e-300)
            if inner == 1.0 or K == 0:
                np.testing.assert_array_equal(ratios, 1.0)


def test_reductions_under_xla_are_finite():
    """XLA may reorder operations, on -inf and on wide spans."""

    @tf.function(jit_compile=True)
    def reduced(d):
        with tf.GradientTape() as tape:
            tape.watch(d)
            value = bounds.bound(d)
        stream = Streamed.empty(d.log_q_z[0])
        for part in (tf.fill([1, 3, 2], -math.inf), d.log_q_z):
            stream = stream.add(tf.cast(part, d.log_q_z.dtype))
        return (
            value,
            *tape.gradient(value, d),
            bounds.tau_path_factor(d),
            bounds.swap_ratios(d, 0.3),
            stream.log_mean(102),
            stream.effective_sample_size(),
        )

    for kind in KINDS:
        d = extreme_densities(kind, 100, dtype="float32")
        results = reduced(d)
        assert all(np.all(np.isfinite(a)) for a in results)
        np.testing.assert_allclose(results[0], Reference(d).bound, atol=0.5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_a_buffer_and_its_gradient_are_exact(kind, dtype):
    rng = np.random.default_rng(0)
    log_weights = tf.constant(spread(kind, (11, 3), rng), dtype)
    uniform = np.full(11, -np.log(11.0))
    last = np.where(np.eye(11)[10] == 1, 0.0, -np.inf)
    for log_pi in (uniform, last):
        with tf.GradientTape() as tape:
            tape.watch(log_weights)
            value = bounds.generalized_iwae(log_weights, tf.constant(log_pi, dtype))
        weighted = np.asarray(log_weights, np.float64) + log_pi[:, np.newaxis]
        expected = scipy.special.logsumexp(weighted, axis=0)
        r = scipy.special.softmax(weighted, axis=0)
        np.testing.assert_allclose(value, expected, rtol=0, atol=2 * FLOAT16 * VALUE_ERROR[dtype])
        # In float32, the weights are differences of numbers with errors of 0.004.
        tolerance = (
            dict(rtol=1e-9, atol=1e-12) if dtype == "float64" else dict(rtol=0.02, atol=1e-30)
        )
        responsibilities = bounds.buffer_responsibilities(log_weights, tf.constant(log_pi, dtype))
        np.testing.assert_allclose(responsibilities, r, **tolerance)
        np.testing.assert_allclose(tape.gradient(value, log_weights), r, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
def test_streams_of_10_000_weights_equal_one_reduction(order, kind, dtype):
    values = spread(kind, (10_000, 2), np.random.default_rng(1))
    values = (
        values if order == "drawn" else np.sort(values, axis=0)[:: 1 if order == "rising" else -1]
    )
    log_weights = tf.constant(values, dtype)
    exact = np.asarray(log_weights, np.float64)
    stream, largest = Streamed.empty(log_weights[0]), no_largest(20, log_weights[0])
    for chunk in tf.split(log_weights, [1, 4_000, 5_000, 999]):
        stream, largest = stream.add(chunk), add_to_largest(largest, chunk)
    error = FLOAT16 * VALUE_ERROR[dtype]
    np.testing.assert_allclose(stream.log_mean(10_000), log_mean_exp(exact), rtol=0, atol=error)
    w = scipy.special.softmax(exact, axis=0)
    ess = 1 / np.sum(w**2, axis=0)
    rtol = 1e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(stream.effective_sample_size(), ess, rtol=rtol)
    np.testing.assert_allclose(bounds.effective_sample_size(log_weights), ess, rtol=rtol)
    np.testing.assert_array_equal(largest, np.sort(exact, axis=0)[::-1][:20])
    empty = Streamed.empty(log_weights[0]).add(tf.fill([3, 2], tf.constant(-math.inf, dtype)))
    np.testing.assert_array_equal(empty.log_mean(3), -math.inf)
    both = empty.add(log_weights)
    np.testing.assert_allclose(both.log_mean(10_000), log_mean_exp(exact), rtol=0, atol=error)


def pareto_k(weights):
    """Returns k of the n + 1 largest weights, in descending order (Zhang & Stephens 2009)."""
    x = np.sort(weights[:-1] - weights[-1])
    n, points = len(x), 30 + int(math.sqrt(len(x)))
    theta = 1 / x[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (
        3 * x[int(n / 4 + 0.5) - 1]
    )
    k = np.array([np.mean(np.log1p(-t * x)) for t in theta])
    profile = n * (np.log(-theta / k) - k - 1)
    theta = np.sum(theta * scipy.special.softmax(profile))
    return (n * np.mean(np.log1p(-theta * x)) + 5) / (n + 10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [25, 1_000, 10_000])
def test_pareto_k_is_finite_and_that_of_numpy(count, kind):
    tail = diagnostics.tail_length(count)
    for scale in (1.0, 1e-2):
        values = scale * spread(kind, (count, 2), np.random.default_rng(2))
        largest = np.sort(values, axis=0)[::-1][: tail + 1]
        k = diagnostics.pareto_k(tf.constant(largest))
        assert np.all(np.isfinite(k))
        for b in range(2):
            weights = np.exp(largest[:, b] - largest[0, b])
            if np.all(weights[: 3 * len(weights) // 4] > 1e-290) and weights[-1] < 1 - 1e-9:
                assert float(k[b]) == pytest.approx(pareto_k(weights), rel=1e-6)


def test_pareto_k_is_finite_where_all_other_weights_underflow():
    assert np.isfinite(diagnostics.pareto_k(tf.concat([[0.0], tf.fill([11], -math.inf)], 0)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_jackknife_equals_enumeration(kind):
    K = 5
    beta = spread(kind, (K + 1, 2), np.random.default_rng(3))
    expected = []
    for j in range(3):
        kept = [list(s) for s in itertools.combinations(range(1, K + 1), K - j)]
        expected.append(np.mean([log_mean_exp(beta[[0, *s]]) for s in kept], axis=0))
    betas = tf.constant(beta)
    np.testing.assert_allclose(jackknife.subset_averages(betas, 2), expected, rtol=1e-11)
    weights = jackknife.coefficients(K, 2)
    with tf.GradientTape() as tape:
        tape.watch(betas)
        value = jackknife.jackknife(betas, 2)
    np.testing.assert_allclose(value, weights @ np.array(expected), rtol=1e-9, atol=1e-6)
    slope = tape.gradient(value, betas)
    assert np.all(np.isfinite(slope))
    np.testing.assert_allclose(
        np.sum(slope, axis=0), 1.0, rtol=1e-6
    )  # a shift of all beta shifts the value
    drawn = jackknife.sampled_subset_averages(betas, 2, subsets=3, seed=SEED)
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(drawn[0], expected[0], rtol=1e-12)


def test_sampled_averages_of_10_000_weights_are_finite():
    beta = spread("span", (10_001,), np.random.default_rng(4))
    drawn = jackknife.sampled_subset_averages(
        tf.constant(beta[:, np.newaxis]), 1, subsets=20, seed=SEED
    )
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(drawn[0], log_mean_exp(beta[:, np.newaxis]), rtol=1e-12)
