"""The inner SVI loop and its bounds, on linear-Gaussian models and a discrete model.

Statistical assertions allow 5 standard errors.
"""

import itertools

import numpy as np
import pytest
import scipy.special
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import gradients, refined_scores, svi
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.subsampling import systematic_resampling
from hvi_tf.inference.svi import SVI
from tests.oracles.analytic import Refinable
from tests.oracles.refinement import (
    EXPLICIT,
    HIERARCHICAL,
    LOG_PI,
    ORDERS,
    DiscreteBuffer,
    Trainable,
    X,
    learned_gains,
    replicated_scores,
    resampling_errors,
    settings,
    theorem_2,
)
from tests.oracles.statistics import z_of_mean

both = pytest.mark.parametrize("hierarchical", [False, True])


# -- Theorem 1 as a reduction ------------------------------------------------------------


@pytest.mark.parametrize("log_pi", [np.log([0.2, 0.5, 0.3]), np.log([1.0, 1e-300, 1e-300])])
def test_the_generalized_bound_equals_the_naive_formula(log_pi):
    log_weights = np.random.default_rng(0).normal(scale=20, size=(3, 4, 5)) - 1e4
    naive = scipy.special.logsumexp(log_weights + log_pi[:, None, None], axis=0)
    np.testing.assert_allclose(bounds.generalized_iwae(log_weights, log_pi), naive, rtol=1e-14)


def test_a_uniform_pi_gives_iwae_and_a_one_hot_pi_gives_one_weight():
    log_weights = tf.constant(np.random.default_rng(1).normal(size=(4, 6)))
    uniform = tf.fill([4], tf.constant(-np.log(4.0), tf.float64))
    iwae = bounds.log_mean_exp(log_weights)
    np.testing.assert_allclose(bounds.generalized_iwae(log_weights, uniform), iwae, rtol=1e-14)
    one = tf.math.log(tf.one_hot(2, 4, dtype=tf.float64))
    np.testing.assert_allclose(bounds.generalized_iwae(log_weights, one), log_weights[2])
    r = bounds.buffer_responsibilities(log_weights, one)
    np.testing.assert_array_equal(r, np.eye(4)[2][:, None] * np.ones(6))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_the_bound_is_unbiased_in_every_order_of_conditioning(order):
    toy = DiscreteBuffer(independent=False)
    bound = bounds.generalized_iwae(toy.log_weights(order), np.log(toy.pi)).numpy()
    evidence = toy.joint.sum()
    assert toy.probs @ np.exp(bound) == pytest.approx(evidence, rel=1e-13)
    assert toy.probs @ bound < np.log(evidence) - 1e-3


def test_the_resampled_draw_has_a_larger_elbo_where_draws_are_independent():
    """Theorem 2 of Shu et al. 2019."""
    bound, elbo, log_evidence = theorem_2()
    assert bound < elbo <= log_evidence


# -- The loop ----------------------------------------------------------------------------


@pytest.mark.usefixtures("eager")
@both
def test_each_weight_is_unbiased_for_the_evidence(hierarchical, seed):
    """With a hierarchical proposal, U_K takes the place of the density for any tau."""
    scores, log_evidence = replicated_scores(seed, hierarchical, steps=4)
    z = z_of_mean(np.exp(scores["log_likelihood"] - log_evidence) - 1.0)
    assert np.all(np.abs(z) < 5), z


@pytest.mark.usefixtures("eager")
@both
def test_bsvi_rises_with_the_steps_between_the_first_elbo_and_the_evidence(hierarchical, seed):
    by_steps = [replicated_scores(seed, hierarchical, steps=k) for k in (1, 3, 9)]
    exact = by_steps[0][1].mean()
    averages = [
        {name: values.mean(axis=1) for name, values in scores.items()} for scores, _ in by_steps
    ]
    for scores in averages:
        assert z_of_mean(exact - scores["log_likelihood"]) > 5
        assert z_of_mean(scores["log_likelihood"] - scores["elbo_start"]) > 5
    for fewer, more in itertools.pairwise(averages):
        assert z_of_mean(more["log_likelihood"] - fewer["log_likelihood"]) > 5


def test_svi_converges_to_the_exact_posterior(seed):
    lg = Refinable()
    many = np.repeat(X, 100, axis=0)
    loop = SVI(steps=600, learning_rate=0.01, clip_norm=0.0)

    @tf.function
    def refine(x):
        return svi.refine(lg.localize, EXPLICIT, x, loop, tf.constant([seed, 3])).local

    local = refine(tf.constant(many)).numpy().reshape(len(X), 100, -1)
    mean, log_variance = np.split(local.mean(axis=1), 2, -1)
    exact_mean, exact_variance = lg.posterior(X)
    np.testing.assert_allclose(mean, exact_mean, atol=0.05)
    np.testing.assert_allclose(log_variance, np.log(exact_variance) * np.ones_like(mean), atol=0.1)


@both
@pytest.mark.parametrize("double_sampling", [False, True])
def test_an_observation_is_refined_independently_of_its_batch(hierarchical, double_sampling):
    lg = Refinable(hierarchical=hierarchical, tau_shift=0.3)
    method = HIERARCHICAL if hierarchical else EXPLICIT
    loop = settings(5, hierarchical, clip_norm=0.5, double_sampling=double_sampling, K=0)
    batch = lg.observations(50)
    batch[1:] *= 100.0  # their gradients are clipped, each by its own norm
    alone, among = (
        svi.refine(lg.localize, method, tf.constant(x), loop, tf.constant([1, 2]))
        for x in (batch[:1], batch)
    )
    np.testing.assert_allclose(alone.local[0], among.local[0], rtol=1e-10)
    np.testing.assert_allclose(alone.points.z[:, 0], among.points.z[:, 0], rtol=1e-10)
    weights = (refined.points.log_weight()[:, 0] for refined in (alone, among))
    np.testing.assert_allclose(*weights, rtol=1e-10)


def test_a_step_is_momentum_sgd_on_the_elbo_of_one_observation():
    lg = Refinable()
    x, loop = tf.constant(X), SVI(steps=2, learning_rate=0.3, momentum=0.5, clip_norm=1.0)
    seed = tf.constant([4, 5])
    lam = lg.localize(x).start
    velocity = np.zeros(lam.shape)
    for i in range(2):
        with tf.GradientTape() as tape:
            tape.watch(lam)
            model = lg.localize(x).at(lam)
            point = svi.draw_point(model, EXPLICIT, x, loop, tf.random.fold_in(seed, i))
            elbo = tf.reduce_sum(point.log_weight())
        ascent = tape.gradient(elbo, lam).numpy()
        norm = np.linalg.norm(ascent, axis=-1, keepdims=True)
        assert norm.max() > 1.0
        velocity = 0.5 * velocity + ascent / np.maximum(norm, 1.0)
        lam = lam + 0.3 * velocity
    refined = svi.refine(lg.localize, EXPLICIT, x, loop, seed)
    np.testing.assert_allclose(refined.local, lam, rtol=1e-10)


def test_double_sampling_draws_the_buffer_again_on_the_same_trajectory():
    lg, x, seed = Refinable(), tf.constant(X), tf.constant([4, 5])
    once, twice = (
        svi.refine(lg.localize, EXPLICIT, x, settings(double_sampling=double), seed)
        for double in (False, True)
    )
    np.testing.assert_array_equal(once.local, twice.local)
    assert np.all(np.abs(once.points.z - twice.points.z)[:-1] > 1e-6)


def test_a_kl_weight_of_zero_maximizes_the_likelihood_only():
    lg, x, seed = Refinable(), tf.constant(X), tf.constant([4, 5])
    loop = settings(30, learning_rate=0.05)
    weighted = [svi.refine(lg.localize, EXPLICIT, x, loop, seed, weight) for weight in (0.0, 1.0)]
    variances = [tf.reduce_mean(refined.local[:, lg.z_dim :]) for refined in weighted]
    assert variances[0] < variances[1] - 0.1  # nothing keeps the proposal wide
    log_weight = weighted[0].points.log_weight(0.0)
    np.testing.assert_array_equal(log_weight, weighted[0].points.log_likelihood)


@both
def test_streamed_scores_equal_those_of_the_whole_buffer(hierarchical):
    lg = Refinable(hierarchical=hierarchical, tau_shift=0.3)
    method = HIERARCHICAL if hierarchical else EXPLICIT
    x, seed, loop = tf.constant(X), tf.constant([6, 7]), settings(5, hierarchical)
    log_pi = tf.math.log(tf.constant([0.1, 0.1, 0.1, 0.2, 0.2, 0.3], tf.float64))
    points = svi.refine(lg.localize, method, x, loop, seed).points
    scores = refined_scores.score_images(lg.localize, method, loop, x, seed, log_pi=log_pi)
    bound = bounds.generalized_iwae(points.log_weight(), log_pi)
    np.testing.assert_allclose(scores.log_likelihood, bound, rtol=1e-12)
    np.testing.assert_allclose(scores.elbo_start, points.log_weight()[0], rtol=1e-12)
    uniform = refined_scores.score_images(lg.localize, method, loop, x, seed)
    iwae = bounds.log_mean_exp(points.log_weight())
    np.testing.assert_allclose(uniform.log_likelihood, iwae, rtol=1e-12)


@pytest.mark.usefixtures("eager")
def test_the_elbo_equals_minus_kl_minus_reconstruction():
    scores, _ = replicated_scores(0, draws=3, steps=2)
    np.testing.assert_allclose(scores["elbo"], -(scores["kl"] + scores["reconstruction"]))
    assert np.all(z_of_mean(scores["kl"]) > 5)


def test_the_graph_does_not_grow_with_the_steps():
    lg, x = Refinable(), tf.constant(X)

    def operations(steps):
        score = refined_scores.make_scorer(lg.localize, EXPLICIT, settings(steps))
        graph = score.get_concrete_function(x, tf.constant([0, 1])).graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert operations(4) == operations(400)


# -- Gradients ---------------------------------------------------------------------------


priors = pytest.mark.parametrize("hierarchical_prior", [False, True])


@priors
@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_the_gradient_for_theta_is_that_of_the_bound_on_a_fixed_trajectory(
    hierarchical_prior, kl_weight
):
    model = Trainable(6, hierarchical_prior)
    refined, ascent = model.gradients([1, 2], kl_weight=kl_weight)
    z, zeta = refined.points.z, refined.points.zeta
    log_ratio = refined.points.log_ratio
    with tf.GradientTape() as tape:
        local = model.localize(model.x)
        built = local.at(local.start)
        if zeta is None:
            log_p = built.prior.log_prob(z)
        else:
            zeta = tf.transpose(zeta, [1, 0, 2, 3])
            ratios = built.prior.conditional(zeta).log_prob(z)
            ratios += built.prior.mixing.log_prob(zeta) - built.prior.inverse(z).log_prob(zeta)
            log_p = bounds.log_mean_exp(ratios)
        log_q = tf.stop_gradient(log_p) - log_ratio
        log_weights = built.likelihood(z).log_prob(model.x) + kl_weight * (log_p - log_q)
        value = tf.reduce_mean(bounds.generalized_iwae(log_weights, LOG_PI))
    for mine, autodiff in zip(
        ascent.theta, tape.gradient(value, model.variables.theta), strict=True
    ):
        np.testing.assert_allclose(mine, autodiff, rtol=1e-9, atol=1e-12)


@priors
def test_resampling_keeps_the_mean_of_the_gradient(hierarchical_prior, seed):
    errors = resampling_errors(seed, hierarchical_prior)
    assert np.all(errors.std(axis=0) > 1e-3)  # another estimator, not the same one
    assert np.all(np.abs(z_of_mean(errors)) < 5)


def test_resampling_draws_in_proportion_to_the_weights(seed):
    r = np.repeat([[0.1], [0.0], [0.6], [0.3]], 40_000, axis=1)
    index = systematic_resampling(tf.constant(r), 1, tf.constant([seed, 1]))[0].numpy()
    frequencies = np.bincount(index, minlength=4) / r.shape[1]
    np.testing.assert_allclose(frequencies, r[:, 0], atol=5 * 0.5 / np.sqrt(r.shape[1]))
    assert frequencies[1] == 0


@priors
def test_the_gradients_for_phi_and_rho_are_those_of_the_elbo_at_lambda_0(hierarchical_prior):
    model, seed = Trainable(6, hierarchical_prior), tf.constant([1, 2])
    _, ascent = model.gradients([1, 2])

    def first(x):
        local = model.localize(x)
        return local.at(local.start)

    built = first(model.x)._replace(conditional=lambda psi, x: first(x).conditional(psi, x))
    _, elbo = gradients.value_and_gradients(
        built, EXPLICIT, model.x, model.variables, Counts(L=2), tf.random.fold_in(seed, 0)
    )
    for group in ("phi", "rho"):
        for mine, theirs in zip(getattr(ascent, group), getattr(elbo, group), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9)
            assert np.all(mine != 0)


def test_the_kl_objective_has_the_gradient_of_the_kl_to_the_refined_proposal():
    model = Trainable(4)
    refined, ascent = model.gradients([1, 2], encoder_objective="kl")
    mean, log_variance = np.split(model.start.numpy(), 2, axis=-1)
    end_mean, end_log_variance = np.split(refined.local.numpy(), 2, axis=-1)
    # The derivatives of KL(N(m, v) || N(m', v')).
    at_mean = (mean - end_mean) / np.exp(end_log_variance)
    at_log_variance = 0.5 * (np.exp(log_variance - end_log_variance) - 1.0)
    expected = -np.concatenate([at_mean, at_log_variance], axis=-1) / 4
    np.testing.assert_allclose(ascent.phi[0], expected, rtol=1e-9)


def test_learned_weights_improve_the_bound_of_uniform_weights(seed):
    gains, pi = learned_gains(seed)
    assert z_of_mean(gains) > 5
    assert np.argmax(pi) > 0  # the first proposal is the worst


def test_svi_equals_bsvi_with_all_of_pi_on_the_last_proposal():
    model = Trainable(5)
    last = tf.math.log(tf.one_hot(4, 5, dtype=tf.float64))
    refined, ascent = model.gradients([1, 2], log_pi=last)
    _, drawn = model.gradients([1, 2], log_pi=last, sir=True)
    np.testing.assert_allclose(ascent.theta[0], drawn.theta[0], rtol=1e-12)
    bound = bounds.generalized_iwae(refined.points.log_weight(), last)
    np.testing.assert_array_equal(bound, refined.points.log_weight()[-1])


def test_refine_runs_inside_a_function():
    """Its result holds tensors only."""
    lg = Refinable()
    x = tf.constant(lg.observations(2))
    settings = SVI(3, 0.1)
    refine = tf.function(
        lambda: svi.refine(lg.localize, EXPLICIT, x, settings, tf.constant([0, 1]))
    )
    refined = refine()
    assert refined.points.z.shape[0] == 4
    assert refined.local.shape == lg.localize(x).start.shape
