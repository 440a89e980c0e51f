"""Annealed importance sampling brackets closed-form evidences.

Statistical assertions allow 5 standard errors of the mean.
"""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds
from hvi_tf.evaluation import ais
from hvi_tf.evaluation.ais import AISResult, Target
from tests.oracles.annealing import (
    LG,
    X,
    bounds_of_runs,
    compiled,
    normal,
    posterior_draws,
    target_of,
)
from tests.oracles.statistics import mean_and_error


# With few steps, the transitions are far from equilibrium, so an error in them has an effect.
@pytest.mark.parametrize(("num_steps", "step_size"), [(2, 0.3), (6, 0.9), (20, 0.3)])
def test_forward_weights_are_unbiased_for_the_evidence(num_steps, step_size, seed):
    run = compiled(ais.forward, target_of(X), num_steps, step_size)
    result = run([normal([seed, 1], 20_000, 3, 2)], tf.constant([seed, 2]))
    ratio, error = mean_and_error(np.exp(result.log_weights - LG.log_evidence(X)))
    assert np.all(error < 0.02)
    assert np.all(np.abs(ratio - 1.0) < 5.0 * error)


# The first of 10 steps removes a third of the likelihood; removing half has infinite variance.
@pytest.mark.parametrize("num_steps", [10, 40])
def test_reverse_weights_are_unbiased_for_the_inverse_evidence(num_steps, seed):
    x, z = posterior_draws([seed, 1], observations=4_000, chains=4)
    result = compiled(ais.reverse, target_of(x), num_steps)([z], tf.constant([seed, 2]))
    ratio = np.exp(result.log_weights + LG.log_evidence(x))
    ratio, error = mean_and_error(ratio.mean(0))
    assert error < 0.05
    assert abs(ratio - 1.0) < 5.0 * error


def test_forward_approaches_the_evidence_from_below(seed):
    gaps = []
    for num_steps in (5, 50):
        run = compiled(ais.forward, target_of(X), num_steps)
        result = run([normal([seed, 1], 4_000, 3, 2)], tf.constant([seed, num_steps]))
        gap, error = mean_and_error(
            LG.log_evidence(X) - bounds_of_runs(result.log_weights, chains=4)
        )
        assert np.all(gap > -5.0 * error)
        gaps.append(gap)
    assert np.all(gaps[0] > 2.0 * gaps[1])
    assert np.all(gaps[1] < 0.05)
    assert np.all((result.acceptance > 0.4) & (result.acceptance < 1.0))


def test_reverse_approaches_the_evidence_from_above(seed):
    gaps = []
    for num_steps in (5, 50):
        x, z = posterior_draws([seed, 1], observations=2_000, chains=4)
        result = compiled(ais.reverse, target_of(x), num_steps)([z], tf.constant([seed, num_steps]))
        exact = LG.log_evidence(x)
        gap, error = mean_and_error(result.log_evidence - exact)
        assert gap > -5.0 * error
        # Several chains help, though all share their start.
        assert np.mean(-result.log_weights - exact) > gap
        gaps.append(gap)
    assert gaps[0] > 2.0 * gaps[1]
    assert gaps[1] < 0.05
    assert np.all((result.acceptance > 0.4) & (result.acceptance < 1.0))


class Hierarchy:
    """p(zeta) = N(0, I), p(z|zeta) = N(G zeta, g^2 I), and p(x|z) of `LG`."""

    G, g = 0.5 * np.random.default_rng(5).normal(size=(2, 3)), 0.6

    def draw(self, seed, *shape):
        zeta_seed, z_seed = tf.unstack(tf.random.split(seed, 2))
        zeta = normal(zeta_seed, *shape, 3)
        return [tf.linalg.matvec(self.G, zeta) + self.g * normal(z_seed, *shape, 2), zeta]

    def target(self, x):
        def log_prior(z, zeta):
            noise = z - tf.linalg.matvec(self.G, zeta)
            p_zeta, p_noise = tfd.Normal(np.zeros(3), 1.0), tfd.Normal(np.zeros(2), self.g)
            return tf.reduce_sum(p_zeta.log_prob(zeta), -1) + tf.reduce_sum(
                p_noise.log_prob(noise), -1
            )

        return Target(log_prior, lambda z, _: LG.likelihood(z).log_prob(x))

    def log_evidence(self, x):
        cov_z = self.G @ self.G.T + self.g**2 * np.eye(2)
        cov = LG.W @ cov_z @ LG.W.T + LG.s**2 * np.eye(3)
        return scipy.stats.multivariate_normal(LG.b, cov).logpdf(x)


def test_forward_anneals_both_parts_of_a_hierarchical_prior(seed):
    h = Hierarchy()
    run = compiled(ais.forward, h.target(X), num_steps=100)
    result = run(h.draw([seed, 1], 400, 3), tf.constant([seed, 2]))
    runs = bounds_of_runs(result.log_weights, chains=4)
    gap, error = mean_and_error(h.log_evidence(X) - runs)
    assert np.all(gap > -5.0 * error)
    assert np.all(gap < 0.05)


def test_reverse_anneals_both_parts_of_a_hierarchical_prior(seed):
    h = Hierarchy()
    state = h.draw([seed, 1], 1, 300)
    x = (LG.likelihood(state[0]).mean() + LG.s * normal([seed, 2], 1, 300, 3))[0]
    run = compiled(ais.reverse, h.target(x), num_steps=100)
    result = run([tf.repeat(part, 4, axis=0) for part in state], tf.constant([seed, 3]))
    gap, error = mean_and_error(result.log_evidence - h.log_evidence(x))
    assert -5.0 * error < gap < 0.05


@pytest.mark.parametrize("first", [1e-3, 10.0])
def test_step_sizes_follow_the_scale_of_each_posterior(first, seed):
    noise = tf.constant([1.0, 0.1, 0.01], tf.float64)  # of x given z, one per observation

    def log_likelihood(z):
        return tf.reduce_sum(tfd.Normal(z, noise[:, tf.newaxis]).log_prob(1.0), axis=-1)

    target = Target(LG.prior.log_prob, log_likelihood)

    @tf.function
    def tune(state, seed):
        return ais.tune_step_size(
            target, state, leapfrog_steps=5, num_steps=300, first=first, seed=seed
        )

    step_size = tune([normal([seed, 1], 20, 3, 2)], tf.constant([seed, 2]))
    assert step_size.shape == (1, 3, 1)
    posterior_scale = 1.0 / np.sqrt(1.0 + 1.0 / np.square(noise))
    ratios = step_size[0, :, 0] / posterior_scale
    assert np.all((ratios > 0.7) & (ratios < 2.0))  # 2 is where the leapfrog diverges


def test_results_are_a_function_of_the_seed(seed):
    state = [normal([seed, 1], 5, 3, 2)]
    run = compiled(ais.forward, target_of(X), 10)
    first, again, other = (run(state, tf.constant([seed, i])) for i in (2, 2, 3))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(first.log_weights != other.log_weights)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_shapes_and_consistency_of_a_result(jit_compile, seed):
    run = compiled(ais.forward, target_of(X), 10, jit_compile=jit_compile)
    result = run([normal([seed, 1], 5, 3, 2)], tf.constant([seed, 2]))
    assert isinstance(result, AISResult)
    assert result.log_weights.shape == (5, 3)
    assert result.log_evidence.shape == result.acceptance.shape == result.ess.shape == (3,)
    np.testing.assert_allclose(result.log_evidence, bounds.log_mean_exp(result.log_weights))
    assert np.all((result.ess >= 1.0) & (result.ess <= 5.0))


def test_unknown_counts_of_chains_and_observations(seed):
    unknown = tf.TensorSpec([None, None, 2], tf.float64)

    @tf.function(input_signature=[unknown, tf.TensorSpec([2], tf.int32)])
    def bracket(z, seed):
        target, settings = target_of(X), dict(leapfrog_steps=3, seed=seed)
        settings["step_size"] = ais.tune_step_size(target, [z], num_steps=20, **settings)
        lower = ais.forward(target, [z], num_steps=10, **settings)
        return lower, ais.reverse(target, [z], num_steps=10, **settings)

    for result in bracket(normal([seed, 1], 5, 3, 2), tf.constant([seed, 2])):
        assert np.all(np.isfinite(result.log_evidence))


def test_the_graph_stores_no_value_of_each_step(seed):
    """Memory does not depend on num_steps: no loop stacks values for a gradient."""
    run = compiled(ais.forward, target_of(X), 10)
    graph = run.get_concrete_function([X[tf.newaxis, :, :2]], tf.constant([seed, 2])).graph
    operations = {op.type for op in graph.get_operations()}
    operations |= {node.op for f in graph.as_graph_def().library.function for node in f.node_def}
    assert "StatelessWhile" in operations or "While" in operations
    assert not {op for op in operations if op.startswith("TensorList")}


@pytest.mark.parametrize("num_steps", [1, 2, 1000])
def test_inverse_temperatures_rise_from_0_to_1_in_growing_steps(num_steps):
    betas = ais.inverse_temperatures(num_steps)
    assert betas.shape == (num_steps + 1,)
    assert betas[0] == 0.0
    assert betas[-1] == 1.0
    gaps = np.diff(betas)
    np.testing.assert_allclose(gaps[1:] / gaps[:-1], np.exp(4.0 / num_steps))


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps=0"):
        ais.inverse_temperatures(0)
    with pytest.raises(ValueError, match="num_steps=1"):
        ais.tune_step_size(
            target_of(X), [X], leapfrog_steps=3, num_steps=1, seed=tf.constant([0, 0])
        )
