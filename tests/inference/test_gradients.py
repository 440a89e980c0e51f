"""Gradient estimators: unbiased, in the ascent direction, exact where they have no noise.

Statistical tests compare two estimators on the same draws. Each was seen to fail with a flipped
sign.
"""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import gradients, sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model import ParameterGroups
from hvi_tf.inference.objective import record
from tests.oracles.analytic import normal
from tests.oracles.unbiased import (
    BIASED_CASES,
    DREG_CASES,
    GDREG_CASES,
    STL_CASES,
    PerReplicateModel,
    assert_unbiased,
    has_path,
    replicate_gradients,
    z_scores,
)


@pytest.mark.parametrize("defensive", [0.0, 0.3])
def test_autodiff_of_a_mixture_equals_the_finite_difference_of_the_bound(defensive, seed):
    """With fixed noise, each psi keeps its component and moves with the z and the tau of it."""
    method = METHODS["diwhvi-mixture"]._replace(defensive=defensive)
    model, step = PerReplicateModel(3, hierarchical_prior=True), 1e-5
    counts, draw_seed = Counts(K=4, M=3, L=2), tf.constant([seed, 1])

    def value():
        sample = sampling.draw(model.model, method, model.x, counts, draw_seed)
        d = densities_lib.log_densities(model.model, method, model.x, sample)
        return np.mean(bounds.bound(d))

    _, ascent = gradients.value_and_gradients(
        model.model, method, model.x, model.groups(method), counts, draw_seed
    )
    for name, gradient in (
        ("A", ascent.phi[0]),
        ("log_d", ascent.phi[1]),
        ("psi_loc", ascent.phi[3]),
        ("tau_map", ascent.eta[0]),
        ("rho_log_scale", ascent.rho[2]),
        ("G", ascent.theta[1]),
    ):
        start = getattr(model, name)
        direction = np.random.default_rng(0).normal(size=start.shape)
        ends = []
        for sign in (1.0, -1.0):
            setattr(model, name, start + sign * step * direction)
            ends.append(value())
        setattr(model, name, start)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(("method", "case"), DREG_CASES)
def test_dreg_has_the_mean_of_autodiff(method, case, seed):
    result = replicate_gradients(["reparameterized", "dreg"], method, seed=seed, **case)
    plain, dreg = result["reparameterized"], result["dreg"]
    np.testing.assert_allclose(dreg.theta, plain.theta, atol=1e-9)
    np.testing.assert_allclose(dreg.phi, plain.phi, atol=1e-9)
    assert_unbiased(dreg, plain, "eta", must_differ=has_path(case))


def gdreg_cases():
    """Yields every case. Those that others cover, without hierarchical priors, are long."""
    for method, case in GDREG_CASES:
        is_short = method in ("hvm", "sivi", "iwhvi") or "prior" in case
        yield pytest.param(method, case, marks=[] if is_short else [pytest.mark.long])


@pytest.mark.parametrize(("method", "case"), [*gdreg_cases()])
def test_gdreg_has_the_mean_of_autodiff_in_every_group(method, case, seed):
    result = replicate_gradients(["reparameterized", "gdreg"], method, seed=seed, **case)
    plain, gdreg = result["reparameterized"], result["gdreg"]
    np.testing.assert_allclose(gdreg.theta, plain.theta, atol=1e-9)
    assert_unbiased(gdreg, plain, "phi")
    if gdreg.eta.size:
        assert_unbiased(gdreg, plain, "eta", must_differ=has_path(case))
    if gdreg.rho.size:
        assert_unbiased(gdreg, plain, "rho")


@pytest.mark.parametrize("case", [dict(M=1), dict(M=4), dict(M=3, outer=0.6)])
@pytest.mark.parametrize("prior", [False, True])
def test_iwae_dreg_has_the_mean_of_autodiff(case, prior, seed):
    result = replicate_gradients(
        ["reparameterized", "iwae-dreg"], "iwae", L=3, prior=prior, seed=seed, **case
    )
    assert_unbiased(result["iwae-dreg"], result["reparameterized"], "phi")
    if prior:
        assert_unbiased(result["iwae-dreg"], result["reparameterized"], "rho")


def test_iwae_dreg_weighs_the_path_by_w_squared():
    """The path gradient of log w_m has the coefficient w_m^2 (Tucker et al. 2019)."""
    model = PerReplicateModel(5)
    variables = ParameterGroups(phi=[model.A])
    tape, objective = record(
        model.model,
        METHODS["iwae"],
        model.x,
        variables,
        Counts(M=4),
        tf.constant([1, 2]),
        estimators=["iwae-dreg"],
    )
    ascent = gradients.doubly_reparameterized(tape, objective, variables).phi[0]
    with tape:
        log_weights = bounds.outer_log_weights(objective.recorded)
    w = bounds.normalized_weights(log_weights)
    z = objective.sample.z
    at_z = tape.gradient(log_weights, z, output_gradients=w**2 / 5)
    expected = tape.gradient(z, model.A, output_gradients=at_z)
    np.testing.assert_allclose(ascent, expected, rtol=1e-10)


@pytest.mark.parametrize(("method", "case"), STL_CASES)
def test_stl_is_unbiased_for_one_z_without_inner_warmup(method, case, seed):
    result = replicate_gradients(["reparameterized", "stl"], method, seed=seed, **case)
    assert_unbiased(result["stl"], result["reparameterized"], "phi")


@pytest.mark.parametrize(("estimator", "method", "case", "group"), BIASED_CASES)
def test_z_scores_show_the_bias_of_a_biased_estimator(estimator, method, case, group, seed):
    result = replicate_gradients(["reparameterized", estimator], method, seed=seed, **case)
    biased, plain = result[estimator], result["reparameterized"]
    assert np.abs(z_scores(getattr(biased, group) - getattr(plain, group))).max() > 8


def test_dreg_at_k_0_is_autodiff():
    """tau did not draw psi_0, so at K = 0 it has no path to rescale."""
    result = replicate_gradients(["reparameterized", "dreg"], "diwhvi", M=3, replicates=5)
    np.testing.assert_allclose(result["dreg"].eta, result["reparameterized"].eta, atol=1e-10)


@pytest.mark.parametrize("name", ["vae", "iwhvi", "sivi"])
def test_the_path_gradient_is_0_at_the_optimum(name):
    """Path gradients are 0 where q is the true posterior and tau is the true inverse.

    No weight depends on any draw there; the direct terms of autodiff are only noise.
    """
    lg = PerReplicateModel(50)
    exact = np.linalg.inv(np.eye(2) + lg.W[0].numpy().T @ lg.W[0].numpy() / 0.8**2)
    lg.A = tf.constant(np.broadcast_to(exact @ lg.W[0].numpy().T / 0.8**2, (50, 2, 3)))
    scale = tf.constant(np.linalg.cholesky(exact))
    phi = tf.ones([50, 1], tf.float64)

    def proposal(x):
        loc = phi * tf.linalg.matvec(lg.A, x)
        return tfp.distributions.MultivariateNormalLinearOperator(
            loc, tf.linalg.LinearOperatorLowerTriangular(scale)
        )

    class NoCache:
        """The proposal, without the cache of its own draws (TFP #1190)."""

        def __init__(self, x):
            self.x = x

        def sample(self, n=(), seed=None):
            return tf.identity(proposal(self.x).sample(n, seed=seed))

        def log_prob(self, z):
            return proposal(self.x).log_prob(z)

        def experimental_sample_and_log_prob(self, n, seed=None):
            z = self.sample(n, seed)
            return z, self.log_prob(z)

    flat = tf.ones([50, 2], tf.float64)
    model = lg.model._replace(
        # q(z|psi,x) = p(z|x) for every psi, so tau = q(psi|x) is the true inverse.
        conditional=lambda psi, x: (
            NoCache(x) if psi is None else _Broadcast(NoCache(x), tf.shape(psi)[:-2])
        ),
        mixing=lambda x: normal(0.0 * flat, flat),
        tau=lambda z, x: normal(0.0 * z, tf.ones_like(z)),
    )
    variables = ParameterGroups(phi=[phi])
    tape, objective = record(
        model,
        METHODS[name],
        lg.x,
        variables,
        Counts(K=3),
        tf.constant([3, 4]),
        estimators=["iwae-dreg"],
    )
    path = gradients.doubly_reparameterized(tape, objective, variables).phi[0]
    autodiff = gradients.reparameterized(tape, objective, variables).phi[0]
    np.testing.assert_allclose(path, 0.0, atol=1e-12)
    assert np.abs(autodiff).max() > 1e-4


class _Broadcast:
    """A distribution of z that does not depend on psi, with the batch shape of psi."""

    def __init__(self, distribution, counts):
        self.distribution, self.counts = distribution, counts

    def sample(self, seed=None):
        return self.distribution.sample(self.counts, seed=seed)

    def log_prob(self, z):
        log_prob = self.distribution.log_prob(z)
        shape = tf.concat([self.counts[:-1], tf.shape(log_prob)], axis=0)
        return tf.broadcast_to(log_prob, shape)
