"""Gradient estimators: unbiased, in the ascent direction, and blind to nothing."""

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import gradients, sampling
from hvi_tf.inference.methods import METHODS, Counts, Warmup
from hvi_tf.inference.model import Hierarchy, Model, ParameterGroups
from hvi_tf.inference.objective import Objective
from tests.oracles.analytic import HierarchicalPrior, normal, standard_normal

# Fails by chance once in 5,000 runs of a test with 30 parameters.
LARGEST_Z = 4.8


class Lazy:
    def __init__(self, make):
        self._make = make

    def __getattr__(self, name):
        return getattr(self._make(), name)


class PerReplicateModel:
    """The linear-Gaussian model, every parameter learned, with a copy of each per replicate.

    Observation b has its own copy b of every parameter `[B, ...]`, so one backward pass
    gives the gradients of B independent replicates.
    """

    def __init__(self, replicates, hierarchical_prior=False):
        start = HierarchicalPrior(seed=1)
        self.hierarchical_prior = hierarchical_prior
        self.x = tf.constant(np.repeat(start.observations(1), replicates, axis=0))

        def copies(value):
            value = np.asarray(value, np.float64)
            return tf.constant(np.broadcast_to(value, (replicates, *value.shape)))

        self.W, self.G = copies(start.W), copies(start.G)
        self.zeta_loc = copies([0.2, -0.3])
        self.A, self.C, self.log_d = copies(start.A), copies(start.C), copies(np.log(start.d))
        self.psi_loc, self.psi_log_scale = copies([0.3, -0.1]), copies([0.1, -0.2])
        self.tau_map, self.tau_loc = copies(0.6 * start.inverse.map), copies([0.3, -0.2])
        self.tau_log_scale = copies([-0.2, -0.5])
        self.rho_map, self.rho_loc = copies(0.5 * start.rho.map), copies([0.2, -0.1])
        self.rho_log_scale = copies([-0.3, -0.1])

    def conditional(self, psi, x):
        mean = tf.linalg.matvec(self.A, x)
        if psi is not None:
            mean += tf.linalg.matvec(self.C, psi)
        return normal(mean, tf.exp(self.log_d))

    @property
    def model(self):
        prior = standard_normal(2)
        if self.hierarchical_prior:
            prior = Hierarchy(
                # Made anew at each use, for the tape to see that it is made of zeta_loc.
                Lazy(lambda: normal(self.zeta_loc, tf.ones_like(self.zeta_loc))),
                lambda zeta: normal(tf.linalg.matvec(self.G, zeta), 0.7 * tf.ones_like(zeta)),
                lambda z: normal(
                    tf.linalg.matvec(self.rho_map, z) + self.rho_loc, tf.exp(self.rho_log_scale)
                ),
            )
        return Model(
            prior,
            likelihood=lambda z: normal(tf.linalg.matvec(self.W, z), 0.8 * tf.ones_like(self.x)),
            conditional=self.conditional,
            mixing=lambda x: normal(self.psi_loc, tf.exp(self.psi_log_scale)),
            tau=lambda z, x: normal(
                tf.linalg.matvec(self.tau_map, z) + self.tau_loc, tf.exp(self.tau_log_scale)
            ),
        )

    def groups(self, method):
        phi = [self.A, self.log_d]
        if method.hierarchical:
            phi += [self.C, self.psi_loc, self.psi_log_scale]
        eta = [self.tau_map, self.tau_loc, self.tau_log_scale] if method.has_tau else []
        theta, rho = [self.W], []
        if self.hierarchical_prior:
            theta += [self.G, self.zeta_loc]
        if self.hierarchical_prior and method.has_rho:
            rho = [self.rho_map, self.rho_loc, self.rho_log_scale]
        return ParameterGroups(theta, phi, eta, rho)


def replicate_gradients(
    estimators,
    method,
    K=0,
    M=1,
    L=1,
    inner=1.0,
    outer=1.0,
    replicates=4000,
    seed=0,
    prior=False,
    defensive=0.0,
):
    """For each estimator, on the same draws: the gradients `[replicates, n]` of each group.

    An estimator may be followed by a number S of terms to go back through, as in "dreg 2".
    """
    method = METHODS[method]._replace(defensive=defensive)
    model = PerReplicateModel(replicates, prior)
    groups = model.groups(method)

    @tf.function
    def compute():
        return {
            estimator: gradients.value_and_gradients(
                model.model,
                method,
                model.x,
                groups,
                Counts(K=K, M=M, L=L),
                tf.constant([seed, 1]),
                warmup=Warmup(inner=inner, outer=outer),
                estimator=estimator.split()[0],
                backward_samples=int([*estimator.split(), "0"][1]),
            )[1]
            for estimator in estimators
        }

    def rows(group):
        if not group:
            return np.zeros((replicates, 0))
        return replicates * np.concatenate([np.reshape(g, (replicates, -1)) for g in group], 1)

    return {e: ParameterGroups(*map(rows, g)) for e, g in compute().items()}


def z_scores(differences):
    """Of the mean of each column; a column without spread must be zero."""
    error = differences.std(axis=0) / np.sqrt(len(differences))
    exact = error < 1e-12
    np.testing.assert_allclose(differences[:, exact], 0.0, atol=1e-9)
    return (differences.mean(axis=0) / np.where(exact, 1.0, error))[~exact]


def assert_unbiased(estimate, autodiff, group, must_differ=True):
    z = z_scores(getattr(estimate, group) - getattr(autodiff, group))
    if must_differ:
        assert z.size > 0  # another estimator, not the same one
    if z.size:
        assert np.abs(z).max() < LARGEST_Z, (group, z)
        # z of correlated parameters: its rms is about 1, within wide limits.
        assert np.sqrt(np.mean(z**2)) < 2.5


TAU_CASES = [
    dict(K=3),
    dict(K=3, M=3),
    dict(K=2, M=2, inner=0.4, outer=0.7),
    dict(K=2, M=2, inner=0.0, outer=0.5),
    dict(M=2),
]


DREG_CASES = [
    *((method, case) for method in ("diwhvi", "diwhvi-mixture") for case in TAU_CASES),
    # Each z has a factor of its own, which one for all z would miss by little at a small M.
    ("diwhvi-mixture", dict(K=2, M=12, replicates=8_000)),
    ("diwhvi-mixture", dict(K=3, M=3, L=2, prior=True)),
    ("diwhvi-mixture", dict(K=3, M=3, defensive=0.3)),
]


@pytest.mark.parametrize("defensive", [0.0, 0.3])
def test_autodiff_of_a_mixture_is_the_slope_of_the_bound(defensive, seed):
    """At fixed noise the component of a draw is fixed; psi moves with its z and with tau."""
    method = METHODS["diwhvi-mixture"]._replace(defensive=defensive)
    model, step = PerReplicateModel(3, hierarchical_prior=True), 1e-5

    def value_and_gradients():
        objective, found = gradients.value_and_gradients(
            model.model,
            method,
            model.x,
            model.groups(method),
            Counts(K=4, M=3, L=2),
            tf.constant([seed, 1]),
        )
        return objective.value.numpy(), found

    _, found = value_and_gradients()
    for name, gradient in (
        *(("A", found.phi[0]), ("log_d", found.phi[1]), ("psi_loc", found.phi[3])),
        *(("tau_map", found.eta[0]), ("rho_log_scale", found.rho[2]), ("G", found.theta[1])),
    ):
        start = getattr(model, name)
        direction = np.random.default_rng(0).normal(size=start.shape)
        ends = []
        for sign in (1.0, -1.0):
            setattr(model, name, start + sign * step * direction)
            ends.append(value_and_gradients()[0])
        setattr(model, name, start)
        slope = (ends[0] - ends[1]) / (2 * step)
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize(("method", "case"), DREG_CASES)
def test_dreg_has_the_mean_of_autodiff(method, case, seed):
    """Paired z-scores over replicates with the same draws; seen to fail on a sign."""
    result = replicate_gradients(["reparameterized", "dreg"], method, seed=seed, **case)
    plain, dreg = result["reparameterized"], result["dreg"]
    np.testing.assert_allclose(dreg.theta, plain.theta, atol=1e-9)
    np.testing.assert_allclose(dreg.phi, plain.phi, atol=1e-9)
    assert_unbiased(dreg, plain, "eta", must_differ=has_path(case))


def has_path(case):
    """Without psi_1:K, or with the inner warm-up at 0, eta has no path to rescale."""
    return case.get("K", 0) > 0 and case.get("inner", 1.0) > 0


GDREG_CASES = [
    *(("diwhvi", case) for case in TAU_CASES),
    ("diwhvi", dict(K=2, M=2, L=3, prior=True, inner=0.6, outer=0.8)),
    ("hvm", {}),
    ("sivi", dict(K=3)),
    ("sivi", dict(K=2, M=3, inner=0.5, outer=0.7)),
    ("dsivi", dict(K=2, L=2, prior=True)),
    ("joint", dict(prior=True, inner=0.5)),
    ("iwhvi", dict(K=3, L=3, prior=True)),
]


def gdreg_cases():
    """The rows with trained inverses of both kinds and any warm-up; the others are long."""
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
    """Tucker et al. 2019: the path gradient of log w_m has the coefficient w_m^2."""
    model = PerReplicateModel(5)
    method, one = METHODS["iwae"], tf.constant(1.0, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(model.A)
        sample = sampling.draw(model.model, method, model.x, Counts(M=4), tf.constant([1, 2]))
        d = densities_lib.log_densities(model.model, method, model.x, sample)
        log_weights = bounds.outer_log_weights(d)
        value = tf.reduce_mean(bounds.bound(d))
    objective = Objective(value, method, sample, d, one, one, recorded=d)
    groups = ParameterGroups([], [model.A])
    found = gradients.doubly_reparameterized(tape, objective, groups).phi[0]
    w = bounds.normalized_weights(log_weights)
    at_z = tape.gradient(log_weights, sample.z, output_gradients=w**2 / 5)
    expected = tape.gradient(sample.z, model.A, output_gradients=at_z)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("method", "case"),
    [("vae", {}), ("iwhvi", dict(K=3)), ("sivi", dict(K=3)), ("hvm", dict(outer=0.5))],
)
def test_stl_is_unbiased_for_one_z_without_inner_warmup(method, case, seed):
    result = replicate_gradients(["reparameterized", "stl"], method, seed=seed, **case)
    assert_unbiased(result["stl"], result["reparameterized"], "phi")


@pytest.mark.parametrize(
    ("estimator", "method", "case", "group"),
    [
        ("dreg-biased", "iwhvi", dict(K=3), "eta"),
        ("stl", "iwae", dict(M=3), "phi"),
        ("stl", "iwhvi", dict(K=3, inner=0.3), "phi"),
    ],
)
def test_a_biased_estimator_is_seen_to_be_biased(estimator, method, case, group, seed):
    result = replicate_gradients(["reparameterized", estimator], method, seed=seed, **case)
    biased, plain = result[estimator], result["reparameterized"]
    assert np.abs(z_scores(getattr(biased, group) - getattr(plain, group))).max() > 8


def test_dreg_at_k_0_is_autodiff():
    """Only psi_0 is scored, which tau did not draw: there is no path to rescale."""
    result = replicate_gradients(["reparameterized", "dreg"], "diwhvi", M=3, replicates=5)
    np.testing.assert_allclose(result["dreg"].eta, result["reparameterized"].eta, atol=1e-10)


@pytest.mark.parametrize("method", ["vae", "iwhvi", "sivi"])
def test_the_path_carries_nothing_at_the_optimum(method):
    """With the true posterior as q, and the true tau, every path gradient is exactly 0.

    There no weight depends on any draw; autodiff's direct terms are all noise.
    """
    lg = PerReplicateModel(50)
    exact = np.linalg.inv(np.eye(2) + lg.W[0].numpy().T @ lg.W[0].numpy() / 0.8**2)
    lg.A = tf.constant(np.broadcast_to(exact @ lg.W[0].numpy().T / 0.8**2, (50, 2, 3)))
    scale = tf.constant(np.linalg.cholesky(exact))
    phi = tf.ones([50, 1], tf.float64)

    def proposal(x):
        import tensorflow_probability as tfp

        loc = phi * tf.linalg.matvec(lg.A, x)
        return tfp.distributions.MultivariateNormalLinearOperator(
            loc, tf.linalg.LinearOperatorLowerTriangular(scale)
        )

    class NoCache:
        """As `proposal`, but its density sees a draw as any other value (TFP #1190)."""

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
        # q(z|psi,x) = p(z|x) whatever psi is, so tau = q(psi|x) is the true inverse.
        conditional=lambda psi, x: (
            NoCache(x) if psi is None else _Broadcast(NoCache(x), tf.shape(psi)[:-2])
        ),
        mixing=lambda x: normal(0.0 * flat, flat),
        tau=lambda z, x: normal(0.0 * z, tf.ones_like(z)),
    )
    row, one = METHODS[method], tf.constant(1.0, tf.float64)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(phi)
        sample = sampling.draw(model, row, lg.x, Counts(K=3), tf.constant([3, 4]))
        d = densities_lib.log_densities(model, row, lg.x, sample)
        value = tf.reduce_mean(bounds.bound(d))
    objective = Objective(value, row, sample, d, one, one, recorded=d)
    groups = ParameterGroups([], [phi])
    path = gradients.doubly_reparameterized(tape, objective, groups).phi[0]
    autodiff = gradients.reparameterized(tape, objective, groups).phi[0]
    np.testing.assert_allclose(path, 0.0, atol=1e-12)
    assert np.abs(autodiff).max() > 1e-4


class _Broadcast:
    """A distribution of z alone, drawn and scored for every psi."""

    def __init__(self, distribution, counts):
        self.distribution, self.counts = distribution, counts

    def sample(self, seed=None):
        return self.distribution.sample(self.counts, seed=seed)

    def log_prob(self, z):
        log_prob = self.distribution.log_prob(z)
        shape = tf.concat([self.counts[:-1], tf.shape(log_prob)], axis=0)
        return tf.broadcast_to(log_prob, shape)
