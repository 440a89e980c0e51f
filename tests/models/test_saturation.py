"""Densities of saturated networks and extreme images are finite, and so are their gradients."""

import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.config import config as config_lib
from hvi_tf.models import distributions, flows, likelihoods, networks, pixelcnn
from hvi_tf.models.vae import make_vae
from tests.oracles.extremes import FLOAT16, SEED


def test_densities_of_widths_whose_squares_underflow_are_finite_or_minus_infinity():
    """The log-density is finite at draws, and -inf at 1e19 widths from the mean."""
    scale = tf.fill([2], 1e-30)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        q = distributions.DiagonalNormal(tf.zeros([3, 2]), scale)
        value = q.log_prob(q.sample(seed=SEED))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(tape.gradient(value, scale)))
    far = q.log_prob(tf.ones([3, 2]))
    np.testing.assert_array_equal(far, -math.inf)
    # A psi of density 0 has no weight.
    together = bounds.log_marginal_upper(tf.stack([value, far]))
    np.testing.assert_allclose(together, value - math.log(2), rtol=1e-6)


@pytest.mark.parametrize("raw", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("scale", ["softplus", "log_variance"])
def test_gaussian_heads_of_saturated_units_are_finite(scale, raw):
    outputs = tf.constant([[0.5, -1e4, raw, raw]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        q = networks.gaussian_head(outputs, scale)
        z = q.sample(3, seed=SEED)
        values = {"log q": q.log_prob(z), "log p": distributions.standard_normal([], 2).log_prob(z)}
    assert np.all(q.distribution.scale > 0)
    for name, value in values.items():
        assert np.all(np.isfinite(value)), name
        assert np.all(np.isfinite(tape.gradient(value, outputs))), name


@pytest.mark.parametrize("bias", [-1e3, 0.0, 1e3])
@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
def test_gated_gaussian_heads_of_saturated_units_are_finite(raw, bias):
    outputs = tf.constant([[0.5, -1e4, raw, raw, raw, -raw]])
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        tau = networks.gated_gaussian_head(outputs, bias)
        value = tau.log_prob(tau.sample(3, seed=SEED)) + tau.log_prob(tf.ones([2]))
    assert np.all(tau.distribution.scale > 0)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(tape.gradient(value, outputs)))


def test_softplus_of_saturated_units_is_exact():
    x = tf.constant([-FLOAT16, -1e4, -81.0, -79.0, 0.0, 79.0, 1e4, FLOAT16])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = networks.softplus(x)
    np.testing.assert_allclose(y, np.logaddexp(0.0, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(y, x), scipy.special.expit(x), rtol=1e-5, atol=1e-30)


IMAGES = {
    "black": np.zeros(6),
    "white": np.ones(6),
    "mixed": np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]),
}

LOGITS = np.array([-1e4, -100.0, -1.0, 1.0, 100.0, 1e4])


@pytest.mark.parametrize("image", IMAGES)
def test_bernoulli_densities_of_saturated_logits_are_exact(image):
    x, logits = IMAGES[image], tf.constant(LOGITS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = likelihoods.Bernoulli()(logits).log_prob(tf.constant(x, tf.float32))
    expected = np.sum(-np.logaddexp(0.0, np.where(x == 1, -LOGITS, LOGITS)))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    slope = x - scipy.special.expit(LOGITS)
    np.testing.assert_allclose(tape.gradient(value, logits), slope, rtol=1e-5, atol=1e-7)


def log_discretized(x, loc, scale):
    """Returns log P of a level, from the side where its two sigmoids are small."""
    v = 255 * x
    a, b = (v + 0.5 - 255 * loc) / (255 * scale), (v - 0.5 - 255 * loc) / (255 * scale)
    if v <= 0:
        return -np.logaddexp(0.0, -a)
    if v >= 255:
        return -np.logaddexp(0.0, b)
    return -np.logaddexp(0.0, -a) - np.logaddexp(0.0, b) + np.log(-np.expm1(b - a))


@pytest.mark.parametrize("image", ["black", "white", "gray"])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1e4])
def test_discretized_logistic_densities_of_saturated_logits_are_exact(scale, image):
    x = (IMAGES | {"gray": np.array([0, 1, 100, 128, 254, 255]) / 255})[image]
    logits, scales = tf.constant(LOGITS, tf.float32), tf.fill([6], scale)
    with tf.GradientTape() as tape:
        tape.watch([logits, scales])
        pixel = likelihoods.DiscretizedLogisticDistribution(logits, scales)
        value = pixel.log_prob(tf.constant(x, tf.float32))
    expected = [log_discretized(*three) for three in zip(x, LOGITS, np.full(6, scale), strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    assert all(np.all(np.isfinite(g)) for g in tape.gradient(value, [logits, scales]))


def test_extreme_learned_scales_are_finite():
    for raw in (-1e4, 1e4):
        layer = likelihoods.DiscretizedLogistic(6)
        layer.raw_scale.assign(np.full(6, raw))
        with tf.GradientTape() as tape:
            value = layer(tf.constant(LOGITS, tf.float32)).log_prob(tf.zeros([6]))
        assert np.isfinite(value)
        assert np.all(np.isfinite(tape.gradient(value, layer.raw_scale.value)))


@pytest.mark.parametrize("kind", ["iaf", "realnvp"])
@pytest.mark.parametrize("factor", [1e2, 1e4])
def test_flows_with_saturated_gates_are_finite(kind, factor):
    flow = flows.Flow(3, 3, kind, 2, (5,), np.random.default_rng(0))
    flow.set_weights([factor * w for w in flow.get_weights()])
    h = tf.constant([[1.0, -1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(h)
        base = distributions.DiagonalNormal(h, 0.1 + tf.square(h))
        z, log_q = flow.distribution(base, h).experimental_sample_and_log_prob(4, seed=SEED)
        value = tf.reduce_sum(log_q) + 1e-6 * tf.reduce_sum(z)
    assert np.all(np.isfinite(log_q))
    assert np.all(np.isfinite(z))
    assert np.all(np.isfinite(tape.gradient(value, h)))


@pytest.mark.parametrize("factor", [1e2, 1e4])
def test_pixelcnns_with_saturated_gates_are_finite(factor):
    network = pixelcnn.PixelCNN(4, 2, np.random.default_rng(0), channels=2, kernels=(5, 3))
    network.set_weights([factor * w for w in network.get_weights()])
    z = tf.constant([[1e2, -1e2], [0.0, 0.0]])
    for x in (tf.zeros([2, 16]), tf.ones([2, 16])):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = likelihoods.Bernoulli()(network(x, z)).log_prob(x)
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(tape.gradient(value, z)))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_a_step_on_pixels_of_the_float16_range_is_finite(likelihood):
    model = make_vae(
        config_lib.make(
            bound="diwhvi",
            K=3,
            M=2,
            hidden=(4,),
            latent_dim=2,
            aux_dim=2,
            batch_size=4,
            likelihood=likelihood,
            jit_compile="off",
        ),
        x_dim=16,
    )
    x = tf.constant(np.random.default_rng(0).uniform(-FLOAT16, FLOAT16, (4, 16)), tf.float32)
    metrics = model.train_step(x)
    assert all(np.isfinite(m) for m in metrics.values()), metrics
    assert np.all(np.isfinite(model.validation_scores(x, SEED).log_likelihood))
