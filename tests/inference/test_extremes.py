"""Bounds, gradients and scores are finite at extreme densities, widths and slopes."""

import math

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import gradients, image_scores, plans, subsampling, svi
from hvi_tf.inference.counts import Counts, Warmup
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model import LocalModel, Model, ParameterGroups
from hvi_tf.models import distributions, networks
from tests.oracles.extremes import DTYPES, FLOAT16, KINDS, SEED, Reference, extreme_densities


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_of_kept_terms_sum_to_1(kind, dtype):
    """Each kept term represents 1 / count of the total, for any spread of the weights."""
    for K, M, count in ((100, 3, 2), (10_000, 1, 4), (1, 300, 5)):
        d = extreme_densities(kind, K, M=M, dtype=dtype)
        ascent = LogDensities(*(tf.constant(g, dtype) for g in Reference(d).gradient))
        for s in range(5):
            kept = subsampling.keep(d, Counts(K, M), count, tf.constant([s, 7]))
            upstream = kept.upstream(ascent)
            assert all(np.all(np.isfinite(a)) for a in upstream)
            total = np.sum(upstream.log_likelihood, axis=0)
            rtol = 1e-9 if dtype == "float64" else 0.1
            np.testing.assert_allclose(total, 1.0, rtol=rtol)


@pytest.mark.parametrize("nats", [50.0, 90.0, 95.0, 100.0, 1e4])
def test_a_term_that_only_rounding_draws_has_a_finite_weight(nats, monkeypatch):
    """Weights that sum to less than 1 assign the largest point to the last term.

    If that term is 90 nats below the others, the inverse of its weight overflows float32.
    """
    almost_one = np.nextafter(np.float32(1), np.float32(0))
    monkeypatch.setattr(randomness, "uniform", lambda shape, *_: tf.fill(shape, almost_one))
    zeros = tf.zeros([1_001, 1, 1])
    log_q_z = tf.concat([zeros[:-1], tf.fill([1, 1, 1], -nats)], axis=0)
    d = LogDensities(tf.zeros([1, 1]), tf.zeros([1, 1, 1]), log_q_z, zeros, zeros)
    v = bounds.normalized_weights(log_q_z)
    kept = subsampling.keep(d, Counts(1_000, 1), 3, SEED)
    assert kept.k[-1] == 999  # the last term
    upstream = kept.upstream(LogDensities(d.log_likelihood, d.log_prior, v, v, v))
    assert np.all(np.isfinite(kept.k_weight))
    assert np.all(np.isfinite(upstream.log_q_z))


# Widths of q and tau. With 1e-12 and 1e6, the exact gradient overflows float32.
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
def test_narrow_and_wide_proposals_have_finite_bounds_and_gradients(q_width, tau_width):
    """log q is as low as -1e30."""
    x = tf.constant([[0.5, -1.0], [3.0, 0.0], [0.0, 0.0]])
    for bound, K, M in (("diwhvi", 5, 2), ("sivi", 5, 2), ("iwae", 0, 3)):
        method = METHODS[bound]
        for estimator in method.gradients:
            variables = [tf.Variable(tf.fill([2], v)) for v in (1.0, 0.3, 0.2)]
            groups = ParameterGroups([variables[0]], [variables[1]], [variables[2]])
            if not method.has_own_tau:
                groups = groups._replace(eta=[])
            objective, ascent = gradients.value_and_gradients(
                gaussian_model(q_width, tau_width, variables),
                method,
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


@pytest.mark.parametrize("inner", [0.0, 0.5])
def test_doubly_reparameterized_gradients_are_finite_in_the_tail_of_tau(inner):
    """psi_0 is far in the tail of tau, and the warm-up reduces the weight of tau."""
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


def steep(slope):
    """Returns a local model of log p(x|z) = slope * sum z, the gradient for the mean of q."""

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
def test_steps_of_huge_gradients_are_clipped_to_the_norm(slope):
    settings = svi.SVI(steps=1, learning_rate=1.0, momentum=0.0, clip_norm=1.0)
    refined = svi.refine(steep(slope), METHODS["svi"], tf.zeros([3, 1]), settings, SEED)
    assert np.all(np.isfinite(refined.local))
    if slope >= 1e10:
        np.testing.assert_allclose(np.linalg.norm(refined.local, axis=-1), 1.0, rtol=1e-5)
        assert np.all(refined.local[:, :2] > 0)


def test_a_huge_clip_norm_clips_nothing():
    """A norm of 1e38, close to the largest float32, equals 0, which means no clipping."""
    local = [
        svi.refine(
            steep(1.0), METHODS["svi"], tf.zeros([3, 1]), svi.SVI(2, 1.0, clip_norm=norm), SEED
        ).local
        for norm in (0.0, 1e38)
    ]
    np.testing.assert_array_equal(*local)


def constant_model(value):
    """Returns a model whose every log-density is `value`."""

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


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("value", [-FLOAT16, FLOAT16])
@pytest.mark.parametrize("K", [1, 10_000])
def test_streamed_scores_of_constant_densities_are_exact(K, value):
    """alpha = 2 value - value for every draw."""
    plan = plans.make(METHODS["diwhvi"], Counts(K=K, M=7), rows=8000, max_images=2)
    assert K == 1 or plan.k_chunks > 1
    score = image_scores.make_scorer(constant_model(value), METHODS["diwhvi"], plan)
    scores = score(tf.zeros([2, 1]), SEED)
    np.testing.assert_allclose(scores.log_likelihood, value, rtol=1e-6)
    np.testing.assert_allclose(scores.bound, value, rtol=1e-6)
    np.testing.assert_allclose(scores.ess_inner, K + 1.0, rtol=1e-3)
    np.testing.assert_allclose(scores.ess_outer, 7.0, rtol=1e-3)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("width", [1e-6, 1e6])
def test_streamed_scores_of_narrow_and_wide_tau_are_finite(width):
    variables = [tf.constant([v, v]) for v in (1.0, 0.3, 0.2)]
    plan = plans.make(METHODS["diwhvi"], Counts(K=10000, M=30), rows=60000, max_images=2)
    score = image_scores.make_scorer(
        gaussian_model(1e-3, width, variables), METHODS["diwhvi"], plan
    )
    scores = score(tf.constant([[0.5, -1.0], [3.0, 0.0]]), SEED)
    for name, values in scores._asdict().items():
        assert np.all(np.isfinite(values)), name


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("magnitude", [1.0, FLOAT16])
def test_the_evidence_of_observations_of_any_magnitude_is_exact(magnitude):
    """log p(x) = log N(x; 0, 2) has no error with the true posterior."""
    x = tf.constant([[1.0, -1.0], [0.0, 0.5], [1.0, 1.0]]) * magnitude
    model = Model(
        prior=tfd.Independent(tfd.Normal(tf.zeros([2]), 1.0), 1),
        likelihood=lambda z: tfd.Independent(tfd.Normal(z, 1.0), 1),
        conditional=lambda psi, x: tfd.Independent(tfd.Normal(x / 2, math.sqrt(0.5)), 1),
    )
    settings = dict(bound="iwae", M=3, replicates=2)
    evidence = hvi.evidence(model, x, **settings)
    expected = np.sum(-np.square(x.numpy().astype(float)) / 4 - 0.5 * np.log(4 * np.pi), axis=1)
    np.testing.assert_allclose(evidence.mean, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="use one dtype throughout"):
        hvi.evidence(model, tf.cast(x, "float16"), **settings)


def test_clipping_under_xla_keeps_gradients_of_every_magnitude_finite():
    gradient = tf.constant([[3e30, 4e30], [3e-3, 4e-3], [0.0, 0.0]])
    clipped = tf.function(lambda g: svi._clip(g, 1.0), jit_compile=True)(gradient)
    np.testing.assert_allclose(clipped, [[0.6, 0.8], [3e-3, 4e-3], [0.0, 0.0]], rtol=1e-6)
