"""Extremes: no reduction overflows, and none loses what its largest terms say.

Log-densities span 1e4 nats or lie at the ends of float16, +-65504. References are NumPy in
float64. Tolerances are relative to the largest number that goes in, 65504: `VALUE_ERROR` times
it is what the format of the densities can tell, float32 or float64. Gradients, which are
weights, are compared in float64; in float32 a beta of 2e5 is known to 0.01 nats only, and they
are finite and sum to what they should.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities, diagnostics, jackknife
from hvi_tf.bounds.streaming import Streamed, add_to_largest, no_largest
from hvi_tf.config import config as config_lib
from hvi_tf.evaluation import ais
from hvi_tf.inference import (
    gradients,
    plans,
    subsampling,
    svi,
)
from hvi_tf.inference import (
    image_scores as log_likelihood,
)
from hvi_tf.inference.methods import METHODS, Counts, Warmup
from hvi_tf.inference.model import LocalModel, Model, ParameterGroups
from hvi_tf.models import distributions, flows, likelihoods, networks, pixelcnn
from hvi_tf.models.vae import make_vae

FLOAT16 = 65504.0
DTYPES = ("float32", "float64")
VALUE_ERROR = {"float32": 1e-6, "float64": 1e-14}
SEED = tf.constant([1, 2])


def spread(kind, shape, rng):
    """Log-densities at an extreme."""
    if kind == "span":
        return rng.uniform(-1e4, 0.0, shape)
    if kind == "one":  # that dominates all others
        values = np.full(shape, -FLOAT16)
        values[(0,) * len(shape)] = FLOAT16
        return values
    constant = {"lowest": -FLOAT16, "highest": FLOAT16}
    return (
        np.full(shape, constant[kind])
        if kind in constant
        else rng.choice([-FLOAT16, FLOAT16], shape)
    )


KINDS = ("span", "ends", "one", "lowest", "highest")


def extreme_densities(kind, K, M=3, B=2, L=4, dtype="float64"):
    rng = np.random.default_rng(K + 1)
    inner = (K + 1, M, B)
    shapes = ((M, B), (L, M, B), inner, inner, inner)
    return LogDensities(*(tf.constant(spread(kind, shape, rng), dtype) for shape in shapes))


def log_mean_exp(values):
    return scipy.special.logsumexp(values, axis=0) - np.log(len(values))


class Reference:
    """Everything that is reduced from densities, in NumPy's float64."""

    def __init__(self, d, inner=1.0, outer=1.0):
        d = LogDensities(*(np.asarray(a, np.float64) for a in d))
        self.beta = d.log_q_z + inner * (d.log_q_psi - d.log_tau)
        self.full_beta = d.log_q_z + d.log_q_psi - d.log_tau
        self.upper = log_mean_exp(self.beta)
        self.alpha = d.log_likelihood + outer * (log_mean_exp(d.log_prior) - self.upper)
        self.bound = log_mean_exp(self.alpha)
        self.v = scipy.special.softmax(self.beta, axis=0)
        self.w = scipy.special.softmax(self.alpha, axis=0)
        self.u = scipy.special.softmax(d.log_prior, axis=0)
        at_ratio = -inner * outer * self.w * self.v
        self.gradient = (
            *(self.w, outer * self.w * self.u, -outer * self.w * self.v, at_ratio, -at_ratio),
        )
        self.tau_factor = 1 - inner * (1 - self.v * (1 + outer * (1 - self.w)))
        self.rho_factor = self.u * (1 - outer * (1 - self.w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [0, 1, 100, 10_000])
def test_the_bound_and_its_gradient(K, kind, dtype):
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
        found = tape.gradient(value, d)
        if dtype == "float64":
            for mine, theirs in zip(found, expected.gradient, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
            for mine, theirs in zip(
                factors, (expected.tau_factor, expected.rho_factor), strict=True
            ):
                np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
        assert all(np.all(np.isfinite(a)) for a in (*found, *factors))
        for mine, total in zip(
            found, (1, outer, -outer, -inner * outer, inner * outer), strict=True
        ):
            sums = np.sum(mine, axis=tuple(range(mine.shape.rank - 1)))
            np.testing.assert_allclose(sums, total, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_ratios_of_swapped_psi(kind):
    """r = v_0(c) / v_0(1), which has mean 1 and no bound: finite, and so is what it weighs."""
    for K, inner in itertools.product((0, 1, 100), (0.0, 0.3, 1.0)):
        for dtype in DTYPES:
            d = extreme_densities(kind, K, dtype=dtype)
            found = bounds.swap_ratios(d, inner).numpy()
            assert np.all(np.isfinite(found)), (K, inner, dtype)
            if dtype == "float64":
                expected = Reference(d, inner)
                full = expected.full_beta[0] - log_mean_exp(expected.full_beta)
                r = np.exp(np.minimum(expected.beta[0] - expected.upper - full, 60.0))
                np.testing.assert_allclose(found, r, rtol=1e-9, atol=1e-300)
            if inner == 1.0 or K == 0:
                np.testing.assert_array_equal(found, 1.0)


def test_reductions_under_xla():
    """Which may compute as it likes: of -inf, of spans, and of gradients from 1e30 on."""

    @tf.function(jit_compile=True)
    def reduced(d, gradient):
        with tf.GradientTape() as tape:
            tape.watch(d)
            value = bounds.bound(d)
        stream = Streamed.empty(d.log_q_z[0])
        for part in (tf.fill([1, 3, 2], -math.inf), d.log_q_z):
            stream = stream.add(tf.cast(part, d.log_q_z.dtype))
        found = (
            *(value, *tape.gradient(value, d), bounds.tau_path_factor(d)),
            *(bounds.swap_ratios(d, 0.3), stream.log_mean(102), stream.effective_sample_size()),
        )
        return found, svi._clip(gradient, 1.0)

    for kind in KINDS:
        d = extreme_densities(kind, 100, dtype="float32")
        found, clipped = reduced(d, tf.constant([[3e30, 4e30], [3e-3, 4e-3], [0.0, 0.0]]))
        assert all(np.all(np.isfinite(a)) for a in found)
        np.testing.assert_allclose(found[0], Reference(d).bound, atol=0.5)
        np.testing.assert_allclose(clipped, [[0.6, 0.8], [3e-3, 4e-3], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer(kind, dtype):
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
        # Of float32 the weights come from differences of numbers known to 0.004.
        tolerance = (
            dict(rtol=1e-9, atol=1e-12) if dtype == "float64" else dict(rtol=0.02, atol=1e-30)
        )
        found = bounds.buffer_responsibilities(log_weights, tf.constant(log_pi, dtype))
        np.testing.assert_allclose(found, r, **tolerance)
        np.testing.assert_allclose(tape.gradient(value, log_weights), r, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["drawn", "rising", "falling"])
def test_streams_of_10_000(order, kind, dtype):
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
    """Zhang & Stephens 2009 as printed, in NumPy, of the largest weights `[n + 1]`, decreasing."""
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
def test_pareto_k(count, kind):
    tail = diagnostics.tail_length(count)
    for scale in (1.0, 1e-2):
        values = scale * spread(kind, (count, 2), np.random.default_rng(2))
        largest = np.sort(values, axis=0)[::-1][: tail + 1]
        found = diagnostics.pareto_k(tf.constant(largest))
        assert np.all(np.isfinite(found))
        for b in range(2):
            weights = np.exp(largest[:, b] - largest[0, b])
            if np.all(weights[: 3 * len(weights) // 4] > 1e-290) and weights[-1] < 1 - 1e-9:
                assert float(found[b]) == pytest.approx(pareto_k(weights), rel=1e-6)


def test_pareto_k_of_weights_that_all_fell_below_zero():
    assert np.isfinite(diagnostics.pareto_k(tf.concat([[0.0], tf.fill([11], -math.inf)], 0)))


@pytest.mark.parametrize("kind", KINDS)
def test_jackknife(kind):
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
    np.testing.assert_allclose(np.sum(slope, axis=0), 1.0, rtol=1e-6)  # it moves with all beta
    drawn = jackknife.sampled_subset_averages(betas, 2, subsets=3, seed=SEED)
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(drawn[0], expected[0], rtol=1e-12)


def test_jackknife_of_10_000():
    """Leaving one out, by sums from both sides."""
    beta = spread("span", (10_001,), np.random.default_rng(4))
    drawn = jackknife.sampled_subset_averages(
        tf.constant(beta[:, np.newaxis]), 1, subsets=20, seed=SEED
    )
    assert np.all(np.isfinite(drawn))
    np.testing.assert_allclose(drawn[0], log_mean_exp(beta[:, np.newaxis]), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_kept_terms_are_those_that_weigh(kind, dtype):
    """However far the weights are apart, each drawn term stands for 1 / count of the whole."""
    for K, M, count in ((100, 3, 2), (10_000, 1, 4), (1, 300, 5)):
        d = extreme_densities(kind, K, M=M, dtype=dtype)
        ascent = LogDensities(*(tf.constant(g, dtype) for g in Reference(d).gradient))
        for s in range(5):
            kept = subsampling.keep(d, Counts(K, M), count, tf.constant([s, 7]))
            upstream = kept.upstream(ascent)
            assert all(np.all(np.isfinite(a)) for a in upstream)
            total, rtol = (
                np.sum(upstream.log_likelihood, axis=0),
                1e-9 if dtype == "float64" else 0.1,
            )
            np.testing.assert_allclose(total, 1.0, rtol=rtol)


@pytest.mark.parametrize("nats", [50.0, 90.0, 95.0, 100.0, 1e4])
def test_a_term_that_rounding_draws(nats, monkeypatch):
    """Weights that add up to a little less than 1 leave the last point of all to the last term.

    Its own weight may be anything: 90 nats below the others its inverse is beyond float32.
    """
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(randomness, "uniform", lambda shape, *_: tf.fill(shape, almost_one))
    zeros = tf.zeros([1_001, 1, 1])
    log_q_z = tf.concat([zeros[:-1], tf.fill([1, 1, 1], -nats)], axis=0)
    d = LogDensities(tf.zeros([1, 1]), tf.zeros([1, 1, 1]), log_q_z, zeros, zeros)
    v = bounds.normalized_weights(log_q_z)
    kept = subsampling.keep(d, Counts(1_000, 1), 3, SEED)
    assert kept.k[-1] == 999  # it is drawn
    upstream = kept.upstream(LogDensities(d.log_likelihood, d.log_prior, v, v, v))
    assert np.all(np.isfinite(kept.k_weight))
    assert np.all(np.isfinite(upstream.log_q_z))


# Widths of q and tau.

# At 1e-12 against 1e6 a gradient is mathematically beyond float32: then a step is not taken.
WIDTHS = ((1e-9, 1e-9), (1e-9, 1e6), (1e6, 1e-9), (1e6, 1e6), (1e-6, 1.0), (1.0, 1e-6))


def gaussian_model(q_width, tau_width, variables):
    theta, phi, eta = variables
    normal = distributions.DiagonalNormal
    ones = tf.ones([2])
    return Model(
        prior=normal(tf.zeros([2]), ones),
        likelihood=lambda z: normal(z * theta, ones),
        conditional=lambda psi, x: normal(
            x + phi * (0.0 if psi is None else psi), q_width * tf.exp(phi)
        ),
        mixing=lambda x: normal(tf.zeros_like(x), tf.ones_like(x)),
        tau=lambda z, x: normal(eta * (z - x), tau_width * tf.exp(eta)),
    )


@pytest.mark.parametrize(("q_width", "tau_width"), WIDTHS)
def test_narrow_and_wide_proposals(q_width, tau_width):
    """Bounds and gradients are finite for every estimator, with log q down to -1e30."""
    x = tf.constant([[0.5, -1.0], [3.0, 0.0], [0.0, 0.0]])
    for bound, K, M in (("diwhvi", 5, 2), ("sivi", 5, 2), ("iwae", 0, 3)):
        row = METHODS[bound]
        for estimator in row.gradients:
            variables = [tf.Variable(tf.fill([2], v)) for v in (1.0, 0.3, 0.2)]
            groups = ParameterGroups([variables[0]], [variables[1]], [variables[2]])
            if not row.has_own_tau:
                groups = groups._replace(eta=[])
            objective, ascent = gradients.value_and_gradients(
                gaussian_model(q_width, tau_width, variables),
                row,
                x,
                groups,
                Counts(K=K, M=M),
                SEED,
                estimator=estimator,
            )
            assert np.isfinite(objective.value), (bound, estimator)
            assert all(np.all(np.isfinite(a)) for a in objective.densities)
            for group in ascent:
                assert all(np.all(np.isfinite(g)) for g in group), (bound, estimator)


def test_widths_whose_squares_are_beyond_float32():
    """As documented: -inf of what is 1e19 widths away, finite of draws, in value and gradient."""
    scale = tf.fill([2], 1e-30)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        q = distributions.DiagonalNormal(tf.zeros([3, 2]), scale)
        value = q.log_prob(q.sample(seed=SEED))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(tape.gradient(value, scale)))
    far = q.log_prob(tf.ones([3, 2]))
    np.testing.assert_array_equal(far, -math.inf)
    # A psi that z cannot have come from weighs nothing.
    together = bounds.log_marginal_upper(tf.stack([value, far]))
    np.testing.assert_allclose(together, value - math.log(2), rtol=1e-6)


@pytest.mark.parametrize("inner", [0.0, 0.5])
def test_doubly_reparameterized_gradients_of_warm_ups(inner):
    """psi_0 in the far tail of tau, at a warm-up that counts it less: its ratio stays finite."""
    variables = [tf.Variable(tf.fill([2], v)) for v in (1.0, 0.3, 0.2)]
    model = gaussian_model(1.0, 1e-3, variables)
    groups = ParameterGroups(*([v] for v in variables))
    objective, ascent = gradients.value_and_gradients(
        model,
        METHODS["diwhvi"],
        tf.zeros([3, 2]),
        groups,
        Counts(K=5, M=3),
        SEED,
        warmup=Warmup(inner=inner),
        estimator="gdreg",
    )
    assert np.isfinite(objective.value)
    for group in ascent:
        assert all(np.all(np.isfinite(g)) for g in group)


@pytest.mark.parametrize("raw", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("scale", ["softplus", "log_variance"])
def test_scales_of_saturated_units(scale, raw):
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
def test_gated_scales_of_saturated_units(raw, bias):
    outputs = tf.constant([[0.5, -1e4, raw, raw, raw, -raw]])
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        tau = networks.gated_gaussian_head(outputs, bias)
        value = tau.log_prob(tau.sample(3, seed=SEED)) + tau.log_prob(tf.ones([2]))
    assert np.all(tau.distribution.scale > 0)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(tape.gradient(value, outputs)))


def test_softplus_of_saturated_units():
    x = tf.constant([-FLOAT16, -1e4, -81.0, -79.0, 0.0, 79.0, 1e4, FLOAT16])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = networks.softplus(x)
    np.testing.assert_allclose(y, np.logaddexp(0.0, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(y, x), scipy.special.expit(x), rtol=1e-5, atol=1e-30)


# Images.

IMAGES = {
    "black": np.zeros(6),
    "white": np.ones(6),
    "mixed": np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0]),
}
LOGITS = np.array([-1e4, -100.0, -1.0, 1.0, 100.0, 1e4])


@pytest.mark.parametrize("image", IMAGES)
def test_bernoulli_of_saturated_logits(image):
    x, logits = IMAGES[image], tf.constant(LOGITS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = likelihoods.Bernoulli()(logits).log_prob(tf.constant(x, tf.float32))
    expected = np.sum(-np.logaddexp(0.0, np.where(x == 1, -LOGITS, LOGITS)))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    slope = x - scipy.special.expit(LOGITS)
    np.testing.assert_allclose(tape.gradient(value, logits), slope, rtol=1e-5, atol=1e-7)


def log_discretized(x, loc, scale):
    """Log P of a level, from the side on which its two sigmoids are small."""
    v = 255 * x
    a, b = (v + 0.5 - 255 * loc) / (255 * scale), (v - 0.5 - 255 * loc) / (255 * scale)
    if v <= 0:
        return -np.logaddexp(0.0, -a)
    if v >= 255:
        return -np.logaddexp(0.0, b)
    return -np.logaddexp(0.0, -a) - np.logaddexp(0.0, b) + np.log(-np.expm1(b - a))


@pytest.mark.parametrize("image", ["black", "white", "gray"])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1e4])
def test_discretized_logistic_of_saturated_logits(scale, image):
    x = (IMAGES | {"gray": np.array([0, 1, 100, 128, 254, 255]) / 255})[image]
    logits, scales = tf.constant(LOGITS, tf.float32), tf.fill([6], scale)
    with tf.GradientTape() as tape:
        tape.watch([logits, scales])
        pixel = likelihoods.DiscretizedLogisticDistribution(logits, scales)
        value = pixel.log_prob(tf.constant(x, tf.float32))
    expected = [log_discretized(*three) for three in zip(x, LOGITS, np.full(6, scale), strict=True)]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    assert all(np.all(np.isfinite(g)) for g in tape.gradient(value, [logits, scales]))


def test_the_learned_scale_of_saturated_units():
    for raw in (-1e4, 1e4):
        layer = likelihoods.DiscretizedLogistic(6)
        layer.raw_scale.assign(np.full(6, raw))
        with tf.GradientTape() as tape:
            value = layer(tf.constant(LOGITS, tf.float32)).log_prob(tf.zeros([6]))
        assert np.isfinite(value)
        assert np.all(np.isfinite(tape.gradient(value, layer.raw_scale.value)))


# Networks.


@pytest.mark.parametrize("kind", ["iaf", "realnvp"])
@pytest.mark.parametrize("factor", [1e2, 1e4])
def test_flows_with_saturated_gates(kind, factor):
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
def test_pixelcnn_with_saturated_gates(factor):
    network = pixelcnn.PixelCNN(4, 2, np.random.default_rng(0), channels=2, kernels=(5, 3))
    network.set_weights([factor * w for w in network.get_weights()])
    z = tf.constant([[1e2, -1e2], [0.0, 0.0]])
    for x in (tf.zeros([2, 16]), tf.ones([2, 16])):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = likelihoods.Bernoulli()(network(x, z)).log_prob(x)
        assert np.all(np.isfinite(value))
        assert np.all(np.isfinite(tape.gradient(value, z)))


# The SVI loop.


def steep(slope):
    """An ELBO whose gradient for the mean of q is about `slope`, of log p(x|z) = slope * sum z."""

    def localize(x):
        start = tf.zeros([tf.shape(x)[0], 4])

        def at(lam):
            return Model(
                prior=distributions.standard_normal([], 2),
                likelihood=lambda z: hvi.Callables(lambda x: slope * tf.reduce_sum(z, axis=-1)),
                conditional=lambda psi, x: networks.gaussian_head(lam, "log_variance"),
            )

        return LocalModel(start, at)

    return localize


@pytest.mark.parametrize("slope", [1e-30, 1.0, 1e10, 1e30, 1e37])
def test_steps_of_huge_gradients_have_the_norm_they_are_clipped_to(slope):
    settings = svi.SVI(steps=1, learning_rate=1.0, momentum=0.0, clip_norm=1.0)
    refined = svi.refine(steep(slope), METHODS["svi"], tf.zeros([3, 1]), settings, SEED)
    assert np.all(np.isfinite(refined.local))
    if slope >= 1e10:
        np.testing.assert_allclose(np.linalg.norm(refined.local, axis=-1), 1.0, rtol=1e-5)
        assert np.all(refined.local[:, :2] > 0)


def test_a_clip_norm_that_clips_nothing():
    """Of 1e38, beyond which float32 ends, as 0: a gradient of norm 2 stays as it is."""
    local = [
        svi.refine(
            steep(1.0), METHODS["svi"], tf.zeros([3, 1]), svi.SVI(2, 1.0, clip_norm=norm), SEED
        ).local
        for norm in (0.0, 1e38)
    ]
    np.testing.assert_array_equal(*local)


# Whole models.


def constant_model(value):
    """Every density is `value`, whatever is drawn."""

    def at(shape):
        return tf.fill(shape, tf.constant(value))

    def drawn(shape, seed):
        return tf.random.stateless_normal([*shape, 2, 1], seed)

    return Model(
        prior=hvi.Callables(lambda z: at(tf.shape(z)[:-1])),
        likelihood=lambda z: hvi.Callables(lambda x: at(tf.shape(z)[:-1])),
        conditional=lambda psi, x: hvi.Callables(
            lambda z: at(tf.shape(psi)[:-1]),
            lambda shape, seed: tf.random.stateless_normal([*shape, *psi.shape[:-1], 1], seed),
        ),
        mixing=lambda x: hvi.Callables(lambda psi: at(tf.shape(psi)[:-1]), drawn),
        tau=lambda z, x: hvi.Callables(
            lambda psi: at(tf.shape(psi)[:-1]),
            lambda shape, seed: tf.random.stateless_normal([*shape, *z.shape[:-1], 1], seed),
        ),
    )


@pytest.mark.parametrize("value", [-FLOAT16, FLOAT16])
@pytest.mark.parametrize("K", [1, 10_000])
def test_streamed_scores(K, value):
    """alpha = 2 value - value for every draw; the gradient-free path of a score."""
    plan = plans.make(METHODS["diwhvi"], Counts(K=K, M=7), rows=8000, max_images=2)
    assert K == 1 or plan.k_chunks > 1
    score = log_likelihood.make_scorer(constant_model(value), METHODS["diwhvi"], plan)
    scores = score(tf.zeros([2, 1]), SEED)
    np.testing.assert_allclose(scores.log_likelihood, value, rtol=1e-6)
    np.testing.assert_allclose(scores.bound, value, rtol=1e-6)
    np.testing.assert_allclose(scores.ess_inner, K + 1.0, rtol=1e-3)
    np.testing.assert_allclose(scores.ess_outer, 7.0, rtol=1e-3)


@pytest.mark.parametrize("width", [1e-6, 1e6])
def test_streamed_scores_of_narrow_and_wide_tau(width):
    variables = [tf.constant([v, v]) for v in (1.0, 0.3, 0.2)]
    plan = plans.make(METHODS["diwhvi"], Counts(K=10000, M=30), rows=60000, max_images=2)
    score = log_likelihood.make_scorer(
        gaussian_model(1e-3, width, variables), METHODS["diwhvi"], plan
    )
    scores = score(tf.constant([[0.5, -1.0], [3.0, 0.0]]), SEED)
    for name, found in scores._asdict().items():
        assert np.all(np.isfinite(found)), name


@pytest.mark.parametrize("magnitude", [1.0, FLOAT16])
def test_evidence_of_float16_range(magnitude):
    """log p(x) = log N(x; 0, 2) is exact with the true posterior."""
    x = tf.constant([[1.0, -1.0], [0.0, 0.5], [1.0, 1.0]]) * magnitude
    model = Model(
        prior=tfd.Independent(tfd.Normal(tf.zeros([2]), 1.0), 1),
        likelihood=lambda z: tfd.Independent(tfd.Normal(z, 1.0), 1),
        conditional=lambda psi, x: tfd.Independent(tfd.Normal(x / 2, math.sqrt(0.5)), 1),
    )
    settings = dict(bound="iwae", M=3, replicates=2)
    found = hvi.evidence(model, x, **settings)
    expected = np.sum(-np.square(x.numpy().astype(float)) / 4 - 0.5 * np.log(4 * np.pi), axis=1)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="use one dtype throughout"):
        hvi.evidence(model, tf.cast(x, "float16"), **settings)


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_the_autoencoder_on_float16_range(likelihood):
    """Pixels that no picture has: a step's terms and a score are finite."""
    model = make_vae(
        config_lib.make(
            bound="diwhvi", K=3, M=2, hidden=(4,), latent_dim=2, aux_dim=2, batch_size=4,
            likelihood=likelihood, jit_compile="off",
        ),
        x_dim=16,
    )  # fmt: skip
    x = tf.constant(np.random.default_rng(0).uniform(-FLOAT16, FLOAT16, (4, 16)), tf.float32)
    metrics = model.train_step(x)
    assert all(np.isfinite(m) for m in metrics.values()), metrics
    assert np.all(np.isfinite(model.validation_scores(x, SEED).log_likelihood))


# Annealed importance sampling.


@pytest.mark.parametrize("value", [-FLOAT16, FLOAT16])
def test_annealed_weights_of_a_flat_likelihood(value):
    target = ais.Target(
        lambda z: distributions.standard_normal([], 2).log_prob(z),
        lambda z: tf.fill(tf.shape(z)[:-1], tf.constant(value)) + 0.0 * tf.reduce_sum(z, -1),
    )
    settings = dict(step_size=0.1, num_steps=5, leapfrog_steps=1, seed=SEED)
    state = [tf.random.stateless_normal([5, 3, 2], SEED)]
    for found in (ais.forward(target, state, **settings), ais.reverse(target, state, **settings)):
        np.testing.assert_allclose(found.log_evidence, value, rtol=1e-5)
        np.testing.assert_allclose(found.ess, 5.0, rtol=1e-2)


def test_annealed_weights_that_span_10_000_nats():
    """Draws of the prior are so far apart: the best chain decides, and the step size adapts."""
    target = ais.Target(
        lambda z: distributions.standard_normal([], 2).log_prob(z),
        lambda z: -1e4 * tf.reduce_sum(tf.square(z - 1.0), axis=-1),
    )
    state = [tf.random.stateless_normal([8, 2, 2], SEED)]
    size = ais.tune_step_size(target, state, leapfrog_steps=2, seed=SEED, num_steps=30)
    assert np.all(size < 0.05)  # it begins at 0.1, and the posterior is 0.007 wide
    settings = dict(num_steps=20, leapfrog_steps=2, seed=SEED)
    found = ais.forward(target, state, step_size=size, **settings)
    stuck = ais.forward(target, state, step_size=1e-5, **settings)
    assert np.all(np.ptp(stuck.log_weights, axis=0) > 1e4)
    for result in (found, stuck):
        for name, value in result._asdict().items():
            assert np.all(np.isfinite(value)), name
        expected = log_mean_exp(result.log_weights.numpy().astype(np.float64))
        np.testing.assert_allclose(result.log_evidence, expected, rtol=1e-6)
    exact = 2 * (-0.5 * np.log(20_001) - 0.5 * 20_000 / 20_001)
    assert np.all(found.log_evidence < exact + 5.0)
