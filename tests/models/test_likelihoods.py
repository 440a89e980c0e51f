"""Observation models: probabilities, their extremes, and draws."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.models import likelihoods, pixelcnn

LEVELS = (np.arange(256) / 255.0).astype(np.float32)


def logistic(loc, scale):
    loc, scale = tf.constant(loc, tf.float32), tf.constant(scale, tf.float32)
    return likelihoods.DiscretizedLogisticDistribution(loc, scale)


def table(loc, scale):
    """Returns the log-probabilities of all 256 levels along the first axis."""
    loc, scale = np.broadcast_arrays(loc, scale)
    x = LEVELS.reshape([256] + [1] * loc.ndim)
    return logistic(loc, scale).log_prob(x).numpy().astype(np.float64)


def oracle(loc, scale):
    """Returns the same in float64, as a difference in the tail with less probability."""
    v = np.arange(256.0).reshape([256] + [1] * np.ndim(loc))
    above = np.where(v == 255, np.inf, ((v + 0.5) / 255 - loc) / scale)
    below = np.where(v == 0, -np.inf, ((v - 0.5) / 255 - loc) / scale)
    left = scipy.special.expit(above) - scipy.special.expit(below)
    right = scipy.special.expit(-below) - scipy.special.expit(-above)
    with np.errstate(divide="ignore"):
        return np.log(np.where(v < 255 * loc, left, right))


def grid(low, high, count):
    loc = np.linspace(low, high, count, dtype=np.float32).astype(np.float64)
    scale = np.array([likelihoods.MIN_SCALE, 0.004, 0.03, 0.1, 1.0, 30.0])
    return np.meshgrid(loc, scale.astype(np.float32).astype(np.float64))


# Probabilities.


def test_outputs_are_the_logits_of_bernoulli():
    outputs = tf.random.stateless_normal([3, 2, 5], [0, 1])
    x = np.array([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], np.float32)
    p = likelihoods.Bernoulli()(outputs)
    assert p.batch_shape == [3, 2]
    assert p.event_shape == [5]
    expected = -np.logaddexp(0.0, np.where(x, -outputs, outputs)).sum(axis=-1)
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e-5)
    assert not likelihoods.Bernoulli().variables


@pytest.mark.parametrize(("low", "high"), [(-50.0, 50.0), (-0.1, 1.1), (0.499, 0.503)])
def test_levels_have_probabilities_that_sum_to_one(low, high):
    np.testing.assert_allclose(np.exp(table(*grid(low, high, 301))).sum(axis=0), 1.0, atol=1e-5)


def test_probabilities_are_those_of_the_oracle():
    loc, scale = grid(-0.6, 1.6, 67)
    found, expected = table(loc, scale), oracle(loc, scale)
    assert found.min() < -1000.0
    possible = expected > -690.0  # float64 underflows below
    assert possible.mean() > 0.8
    np.testing.assert_allclose(found[possible], expected[possible], rtol=2e-5, atol=2e-4)


def test_mean_is_within_half_a_level_of_the_exact_mean():
    loc, scale = grid(-0.5, 1.5, 41)
    expected = np.tensordot(LEVELS, np.exp(oracle(loc, scale)), 1)
    np.testing.assert_allclose(logistic(loc, scale).mean(), expected, atol=1 / 510)
    smooth = scale > 0.002
    error = np.abs(logistic(loc, scale).mean() - expected)
    assert error[smooth].max() < 2e-4


@pytest.mark.parametrize("raw_scale", [-1e4, -5.0, 0.0, 1e3])
@pytest.mark.parametrize("loc", [-1e4, -1.0, 0.0, 0.5, 1.0, 1e4])
def test_log_probabilities_and_gradients_are_finite_everywhere(loc, raw_scale):
    pixels = likelihoods.DiscretizedLogistic(4)
    pixels.raw_scale.assign(tf.fill([4], raw_scale))
    x = tf.constant([[0.0, 1 / 255, 128 / 255, 1.0]])
    outputs = tf.fill([1, 4], loc - 0.5)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        log_p = pixels(outputs).log_prob(x)
    for value in [log_p, *tape.gradient(log_p, [outputs, pixels.raw_scale.value])]:
        assert np.all(np.isfinite(value))


def test_the_gradient_of_a_far_location_points_to_the_pixel():
    pixels = likelihoods.DiscretizedLogistic(3)
    x = tf.constant([[0.0, 128 / 255, 1.0]])
    for loc, expected in ((-1e4, [0.0, 10.0, 10.0]), (1e4, [-10.0, -10.0, 0.0])):
        outputs = tf.fill([1, 3], loc)
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            log_p = pixels(outputs).log_prob(x)
        np.testing.assert_allclose(tape.gradient(log_p, outputs)[0], expected, rtol=1e-4)


# The layer.


def test_scale_starts_at_a_tenth_and_never_falls_below_its_bound():
    pixels = likelihoods.DiscretizedLogistic(6)
    assert [v.shape for v in pixels.trainable_variables] == [(6,)]
    np.testing.assert_allclose(pixels.scale, 0.1, rtol=1e-5)
    pixels.raw_scale.assign([-np.inf, -1e30, -100.0, -10.0, 0.0, 10.0])
    assert np.all(pixels.scale >= np.float32(likelihoods.MIN_SCALE))
    assert np.all(np.diff(pixels.scale) >= 0.0)


def test_layer_sums_over_pixels_and_centers_the_outputs():
    pixels = likelihoods.DiscretizedLogistic(4)
    pixels.raw_scale.assign([-4.0, -3.0, -2.0, -1.0])
    outputs = 0.2 * tf.random.stateless_normal([5, 2, 4], [0, 1])
    x = LEVELS[np.array([[0, 100, 255, 7], [128, 0, 3, 254]])]
    p = pixels(outputs)
    assert p.batch_shape == [5, 2]
    assert p.event_shape == [4]
    expected = logistic(outputs + 0.5, pixels.scale).log_prob(x)
    np.testing.assert_allclose(p.log_prob(x), np.sum(expected, axis=-1), rtol=1e-5)


# Draws.


@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.02), (0.01, 0.01), (0.98, 0.1), (0.5, 0.001)])
def test_draws_have_the_probabilities(loc, scale, seed):
    x = logistic(loc, scale).sample(100_000, seed=tf.constant([seed, 0])).numpy()
    assert np.all(np.isin(x, LEVELS))
    counts = np.bincount(np.rint(255 * x).astype(int), minlength=256)
    expected = 100_000 * np.exp(oracle(loc, scale))
    rare = expected < 10.0
    if rare.any():
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    statistic = np.sum((counts - expected) ** 2 / np.maximum(expected, 1.0))
    assert scipy.stats.chi2.sf(statistic, len(counts) - 1) > 1e-4


@pytest.mark.parametrize("jit_compile", [False, True])
def test_draws_are_a_function_of_the_seed(jit_compile):
    p = likelihoods.DiscretizedLogistic(7)(tf.zeros([2, 7]))
    draw = tf.function(lambda seed: p.sample((3,), seed=seed), jit_compile=jit_compile)
    x = draw(tf.constant([1, 2]))
    assert x.shape == [3, 2, 7]
    np.testing.assert_array_equal(x, draw(tf.constant([1, 2])))
    assert not np.array_equal(x, draw(tf.constant([1, 3])))


# The autoregressive model.


@pytest.mark.parametrize("kind", ["bernoulli", "discretized_logistic"])
def test_autoregressive_is_the_product_of_its_conditionals(kind):
    network = pixelcnn.PixelCNN(3, 2, randomness.initializer_seeds(0), channels=3, kernels=(3, 3))
    z = tf.random.stateless_normal([4, 2, 2], [0, 1])
    x = np.array(tf.random.stateless_uniform([2, 9], [0, 2]) < 0.5, np.float32)
    layer = likelihoods.Bernoulli()
    if kind == "discretized_logistic":
        layer = likelihoods.DiscretizedLogistic(9)
    p = likelihoods.Autoregressive(network, layer, z)
    assert p.batch_shape == [4, 2]
    assert p.event_shape == [9]
    assert not hasattr(p, "mean")
    log_p = p.log_prob(x)
    assert log_p.shape == [4, 2]
    # Conditional t depends only on earlier pixels; the others are set to 0.
    total = 0.0
    for t in range(9):
        seen = np.where(np.arange(9) < t, x, 0.0)
        total += layer(network(seen, z)).distribution.log_prob(x)[..., t]
    np.testing.assert_allclose(log_p, total, rtol=1e-5)
    draw = p.sample(seed=tf.constant([1, 2]))
    assert draw.shape == [4, 2, 9]
    assert draw.dtype == tf.float32
