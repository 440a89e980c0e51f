"""Gradients of many independent replicates, to compare the means of two estimators."""

import functools

import numpy as np
import tensorflow as tf

from hvi_tf.inference import gradients
from hvi_tf.inference.counts import Counts, Warmup
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.model import Hierarchy, Model, ParameterGroups
from tests.oracles.analytic import HierarchicalPrior, normal, standard_normal

# A test with 30 parameters exceeds it by chance once in 5,000 runs.
LARGEST_Z = 4.8


class Lazy:
    """A distribution that is made again at each use, so that a tape sees its parameters."""

    def __init__(self, make):
        self._make = make

    def __getattr__(self, name):
        return getattr(self._make(), name)


class PerReplicateModel:
    """The linear-Gaussian model with one copy of every trainable parameter per replicate.

    Observation b uses copy b of every parameter `[B, ...]`, so one backward pass returns the
    gradients of B independent replicates.
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
    """Returns the gradients `[replicates, n]` of each group by each estimator, on the same draws.

    The name of an estimator may end with the number of backward samples, as in "dreg 2".
    """
    method = METHODS[method]._replace(defensive=defensive)
    model = PerReplicateModel(replicates, prior)
    groups = model.groups(method)

    def compute(estimator):
        name, *backward_samples = estimator.split()
        return gradients.value_and_gradients(
            model.model,
            method,
            model.x,
            groups,
            Counts(K=K, M=M, L=L),
            tf.constant([seed, 1]),
            warmup=Warmup(inner=inner, outer=outer),
            estimator=name,
            backward_samples=int(backward_samples[0]) if backward_samples else 0,
        )[1]

    def by_replicate(group):
        if not group:
            return np.zeros((replicates, 0))
        return replicates * np.concatenate([np.reshape(g, (replicates, -1)) for g in group], 1)

    # A graph would be traced for each call: that takes longer than the eager operations.
    return {e: ParameterGroups(*map(by_replicate, compute(e))) for e in estimators}


def z_scores(differences):
    """Returns the z-score of the mean of each column that varies; others must be 0."""
    error = differences.std(axis=0) / np.sqrt(len(differences))
    exact = error < 1e-12
    np.testing.assert_allclose(differences[:, exact], 0.0, atol=1e-9)
    return (differences.mean(axis=0) / np.where(exact, 1.0, error))[~exact]


def assert_unbiased(estimate, autodiff, group, must_differ=True):
    """Checks paired z-scores of a group: the largest, and their root mean square."""
    z = z_scores(getattr(estimate, group) - getattr(autodiff, group))
    if must_differ:
        assert z.size > 0  # another estimator, not the same one
    if z.size:
        assert np.abs(z).max() < LARGEST_Z, (group, z)
        # The parameters are correlated, so the rms of z is only about 1.
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
    # Each z has its own factor. With one factor for all z, only a large M shows the bias.
    ("diwhvi-mixture", dict(K=2, M=12, replicates=8_000)),
    ("diwhvi-mixture", dict(K=3, M=3, L=2, prior=True)),
    ("diwhvi-mixture", dict(K=3, M=3, defensive=0.3)),
]

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


def has_path(case):
    """Returns whether eta has a path to rescale: there are psi_1:K, and the warm-up keeps tau."""
    return case.get("K", 0) > 0 and case.get("inner", 1.0) > 0


# (method, counts) for which "stl" is unbiased.
STL_CASES = [("vae", {}), ("iwhvi", dict(K=3)), ("sivi", dict(K=3)), ("hvm", dict(outer=0.5))]

# (estimator, method, counts, group) with a bias.
BIASED_CASES = [
    ("dreg-biased", "iwhvi", dict(K=3), "eta"),
    ("stl", "iwae", dict(M=3), "phi"),
    ("stl", "iwhvi", dict(K=3, inner=0.3), "phi"),
]


def signal_to_noise(gradients):
    """Returns |mean| / standard deviation over replicates, averaged over the parameters."""
    spread = gradients.std(axis=0)
    moving = spread > 1e-12
    return np.mean(np.abs(gradients.mean(axis=0))[moving] / spread[moving])


@functools.cache
def snr(method, estimators, group, seed, replicates=4_000, **counts):
    """Returns the signal-to-noise ratio of each estimator, on the same draws."""
    by_estimator = replicate_gradients(
        estimators, method, replicates=replicates, seed=seed, **counts
    )
    return [signal_to_noise(getattr(by_estimator[e], group)) for e in estimators]
