"""A draw outside the support of a density has the weight 0 and does not change any gradient.

The reference is the same model with a density of e^-10,000 there, which underflows to 0.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf import bounds
from hvi_tf.bounds import LogDensities, jackknife
from hvi_tf.inference import gradients
from hvi_tf.inference.counts import NO_WARMUP, Counts, Warmup
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import normal

X = tf.constant([[0.8, 0.7], [0.3, -0.2]], tf.float64)
ONES = tf.ones(2, tf.float64)
INF = float("inf")
TINY = -1e4

CASES = [
    (name, estimator)
    for name in ("iwae", "sivi", "sivi-equicomp", "sivi-equisample", "diwhvi", "diwhvi-mixture")
    for estimator in METHODS[name].gradients
]


def positive_only(distribution, outside):
    """Returns the distribution with the log-density `outside` where an entry is not positive."""

    def log_prob(value):
        positive = tf.reduce_all(value > 0, axis=-1)
        return tf.where(positive, distribution.log_prob(value), tf.cast(outside, value.dtype))

    return hvi.Callables(log_prob)


def small_only(distribution, outside):
    """Returns the same for entries outside of (-1.5, 1.5), with all draws inside."""

    def log_prob(value):
        small = tf.reduce_all(tf.abs(value) < 1.5, axis=-1)
        return tf.where(small, distribution.log_prob(value), tf.cast(outside, value.dtype))

    return hvi.Callables(
        log_prob, lambda shape, seed: 1.5 * tf.tanh(distribution.sample(shape, seed=seed) / 1.5)
    )


class Case:
    """A model with one variable in each density."""

    def __init__(self, has_tau=True, hierarchical_prior=False):
        self.v = {n: tf.Variable(0.3 * ONES) for n in ("theta", "phi", "eta", "rho")}
        self.has_tau, self.hierarchical_prior = has_tau, hierarchical_prior

    @property
    def groups(self):
        v = {n: [variable] for n, variable in self.v.items()}
        if not self.has_tau:
            v["eta"] = []
        if not self.hierarchical_prior:
            v["rho"] = []
        return hvi.ParameterGroups(**v)

    def model(self, prior_outside=TINY, mixing_outside=None, tau_outside=None):
        v = self.v

        def prior(zeta):
            return positive_only(normal(zeta, ONES), prior_outside)

        def bounded(distribution, outside):
            return distribution if outside is None else small_only(distribution, outside)

        hierarchy = hvi.Hierarchy(
            normal(0.0 * ONES, ONES),
            lambda zeta: prior(zeta + v["theta"]),
            lambda z: normal(0.5 * z + v["rho"], ONES),
        )
        return hvi.Model(
            prior=hierarchy if self.hierarchical_prior else prior(0.0 * ONES),
            likelihood=lambda z: normal(z + v["theta"], ONES),
            conditional=lambda psi, x: normal(
                0.5 * x + v["phi"] + (0.0 if psi is None else 0.5 * psi), 0.7 * ONES
            ),
            mixing=lambda x: bounded(normal(0.0 * x, ONES), mixing_outside),
            tau=lambda z, x: bounded(normal(0.5 * z + v["eta"], ONES), tau_outside),
        )


def value_and_gradients(case, model, name, estimator, backward_samples=0, warmup=NO_WARMUP):
    method = METHODS[name]
    objective, ascent = gradients.value_and_gradients(
        model,
        method,
        X,
        case.groups,
        Counts(K=3 if method.hierarchical else 0, M=6, L=2 if case.hierarchical_prior else 1),
        tf.constant([1, 2]),
        estimator=estimator,
        backward_samples=backward_samples,
        warmup=warmup,
    )
    ascents = [g for group in ascent for g in group if g is not None]
    return objective, np.concatenate([objective.value[None], *ascents])


@pytest.mark.parametrize(
    ("name", "estimator", "hierarchical_prior"),
    [
        *((*case, True) for case in CASES),
        *((*case, False) for case in CASES if case[0] in ("iwae", "diwhvi")),
    ],
)
def test_a_draw_outside_the_support_of_the_prior_has_no_gradient(
    name, estimator, hierarchical_prior
):
    case = Case(METHODS[name].has_tau, hierarchical_prior)
    kept = estimator == "reparameterized" and METHODS[name].takes_backward_samples
    for backward_samples in (0, 2) if kept else (0,):
        results = []
        for outside in (TINY, -INF):
            model = case.model(prior_outside=outside)
            objective, values = value_and_gradients(case, model, name, estimator, backward_samples)
            results.append(values)
        log_prior = bounds.log_mean_exp(objective.densities.log_prior)
        assert 0 < np.isinf(log_prior).sum() < log_prior.shape.num_elements()
        np.testing.assert_allclose(results[1], results[0], rtol=1e-9)


@pytest.mark.parametrize("estimator", METHODS["diwhvi"].gradients)
@pytest.mark.parametrize("argument", ["mixing_outside", "tau_outside"])
def test_a_draw_outside_the_support_of_q_psi_or_tau_has_no_gradient(argument, estimator):
    """A psi_k outside has no weight. A psi_0 outside the support of tau makes U infinite."""
    case = Case()
    for inner, backward_samples in ((1.0, 0), (0.4, 2)):
        results = []
        for outside in (TINY, -INF):
            model = case.model(**{argument: outside})
            objective, values = value_and_gradients(
                case, model, "diwhvi", estimator, backward_samples, warmup=Warmup(inner=inner)
            )
            results.append(values)
        log_weights = bounds.outer_log_weights(objective.densities)
        assert np.isinf(bounds.inner_log_ratios(objective.densities)).any()
        assert np.isfinite(bounds.log_mean_exp(log_weights)).all()
        np.testing.assert_allclose(results[1], results[0], rtol=1e-9)


def test_warm_ups_of_0_ignore_an_infinite_density():
    d = LogDensities(
        tf.constant([[-1.0]]), *(tf.constant([[[v]]]) for v in (-INF, -2.0, -INF, -3.0))
    )
    assert bounds.bound(d, inner=0.0, outer=0.0).numpy() == -1.0
    assert bounds.inner_log_ratios(d, 0.0).numpy() == -2.0


@pytest.mark.parametrize("jit_compile", [False, True])
def test_reductions_of_infinite_entries_are_their_limits(jit_compile):
    log_weights = tf.constant([[-INF, -INF, 1.0, INF], [-INF, 2.0, 3.0, 0.0]])

    @tf.function(jit_compile=jit_compile)
    def reduce(v):
        with tf.GradientTape() as tape:
            tape.watch(v)
            value = bounds.log_mean_exp(v)
        w, ess = bounds.normalized_weights(v), bounds.effective_sample_size(v)
        return value, tape.gradient(value, v), w, ess

    value, gradient, w, ess = (r.numpy() for r in reduce(log_weights))
    mean = np.log((np.exp(1.0) + np.exp(3.0)) / 2)
    np.testing.assert_allclose(value, [-INF, 2 - np.log(2), mean, INF], rtol=1e-6)
    share = 1 / (1 + np.exp(2.0))
    np.testing.assert_allclose(w, [[0, 0, share, 0], [0, 1, 1 - share, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient, w, rtol=1e-6)
    np.testing.assert_allclose(ess, [0, 1, 1 / (share**2 + (1 - share) ** 2), 0], rtol=1e-6)


def test_diagnostics_of_infinite_entries_are_their_limits():
    beta = tf.constant([[-INF, 1.0], [-INF, -INF], [-INF, 2.0]])
    for estimate in (jackknife.jackknife(beta, 1), bounds.log_mean_exp(beta)):
        assert estimate[0] == -INF
        assert np.isfinite(estimate[1])
    averages = jackknife.subset_averages(tf.constant([[-INF], [1.0], [-INF], [2.0]]), 2)[:, 0]
    np.testing.assert_allclose(  # subsets {1, -, 2}, {1, -}, {1, 2}, {-, 2} and {1}, {-}, {2}
        averages,
        [
            np.log((np.exp(1) + np.exp(2)) / 4),
            (1 + 2 + np.log(np.exp(1) + np.exp(2))) / 3 - np.log(3),
            -INF,
        ],
        rtol=1e-9,
    )
    np.testing.assert_array_equal(hvi.diagnostics.kl_tau_posterior(beta), [INF, INF])


def test_a_fit_under_a_half_normal_prior_is_finite():
    loc = tf.Variable([0.5, 0.5])
    model = hvi.Model(
        prior=tfd.Independent(tfd.HalfNormal(tf.ones(2)), 1),
        likelihood=lambda z: normal(z, tf.ones(2)),
        conditional=lambda psi, x: normal(loc + 0.0 * x, 0.7 * tf.ones(2)),
    )
    x = tf.constant([[0.8, 0.7]])
    course = hvi.fit(model, x, hvi.ParameterGroups(phi=[loc]), bound="iwae", M=20, steps=2)
    assert np.isfinite(course).all()
