"""Bounds computed in two ways on the same draws: a method, and the method that it reduces to."""

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import HierarchicalPrior, LinearGaussian

SAME = dict(tau_shift=0.4)
EXPLICIT, HIERARCHICAL = LinearGaussian(**SAME), HierarchicalPrior(rho_shift=0.4, **SAME)
X = EXPLICIT.observations(4)


def bound_of(method, K, M, L=1, lg=EXPLICIT):
    """Returns the bound `[B]` on a draw of a fixed seed."""
    sample = sampling.draw(lg.model, METHODS[method], X, Counts(K=K, M=M, L=L), tf.constant([7, 8]))
    d = densities_lib.log_densities(lg.model, METHODS[method], X, sample)
    return bounds.bound(d).numpy()


def rescored(method, parent, K, M, L=1, lg=EXPLICIT, **callables):
    """Returns the bounds of a method and of its parent, with other callables, on one draw."""
    sample = sampling.draw(lg.model, METHODS[method], X, Counts(K=K, M=M, L=L), tf.constant([7, 8]))
    model = lg.model._replace(**callables)
    return tuple(
        bounds.bound(densities_lib.log_densities(m, METHODS[name], X, sample)).numpy()
        for m, name in ((lg.model, method), (model, parent))
    )


def mixing_as_tau(z, x):
    return tfd.BatchBroadcast(EXPLICIT.mixing(x), z.shape[:-1])


def mixing_as_rho(z):
    return tfd.BatchBroadcast(HIERARCHICAL.prior.mixing, z.shape[:-1])


def joint_by_hand():
    """Returns the bound of joint, and log p(x|z) + log p(z,psi_0) - log q(z,psi_0|x)."""
    lg = HIERARCHICAL
    sample = sampling.draw(lg.model, METHODS["joint"], X, Counts(), tf.constant([7, 8]))
    z, psi_0 = sample.z, sample.psi_0
    log_p = lg.likelihood(z).log_prob(X) + lg.prior.conditional(psi_0).log_prob(z)
    log_p += lg.prior.mixing.log_prob(psi_0)
    log_q = lg.conditional(psi_0, X).log_prob(z) + lg.mixing(X).log_prob(psi_0)
    return bound_of("joint", 0, 1, lg=lg), (log_p - log_q)[0].numpy()


def prior_in_two_ways(L):
    """Returns the bounds with an explicit p(z), and with a hierarchy and its true rho."""
    hierarchical = HierarchicalPrior(**SAME)
    explicit = hierarchical.model._replace(
        prior=tfd.MultivariateNormalTriL(
            tf.zeros(2, tf.float64), tf.constant(np.linalg.cholesky(hierarchical.prior_cov))
        )
    )
    sample = sampling.draw(
        hierarchical.model, METHODS["diwhvi"], X, Counts(K=3, M=2, L=L), tf.constant([7, 8])
    )
    return tuple(
        bounds.bound(densities_lib.log_densities(m, METHODS["diwhvi"], X, s)).numpy()
        for m, s in ((explicit, sample._replace(zeta=None)), (hierarchical.model, sample))
    )


def elbo_of_an_ignored_psi():
    """Returns the bound where z ignores psi, and the explicit ELBO."""
    lg = LinearGaussian(**SAME)
    lg.C = np.zeros_like(lg.C)
    model = lg.model._replace(tau=mixing_as_tau)
    sample = sampling.draw(model, METHODS["iwhvi"], X, Counts(K=5), tf.constant([7, 8]))
    d = densities_lib.log_densities(model, METHODS["iwhvi"], X, sample)
    explicit = lg.conditional(None, X).log_prob(sample.z)
    elbo = lg.likelihood(sample.z).log_prob(X) + lg.prior.log_prob(sample.z) - explicit
    return bounds.bound(d).numpy(), elbo[0].numpy()


# Each entry computes the bound `[B]` in two ways.
SPECIAL_CASES = {
    "hvm is iwhvi at K=0": lambda: (bound_of("hvm", 0, 1), bound_of("iwhvi", 0, 1)),
    "diwhvi is iwhvi at M=1": lambda: (bound_of("diwhvi", 5, 1), bound_of("iwhvi", 5, 1)),
    "iwae is vae at M=1": lambda: (bound_of("iwae", 0, 1), bound_of("vae", 0, 1)),
    "sivi is iwhvi with tau := q(psi|x)": lambda: rescored(
        "sivi", "diwhvi", 5, 3, tau=mixing_as_tau
    ),
    "dsivi is iwhvi with tau := q(psi|x), rho := p(zeta)": lambda: rescored(
        "dsivi",
        "iwhvi",
        5,
        1,
        4,
        HIERARCHICAL,
        tau=mixing_as_tau,
        prior=HIERARCHICAL.prior._replace(inverse=mixing_as_rho),
    ),
    "joint is log p(x,z,psi_0) - log q(z,psi_0|x)": joint_by_hand,
    "equicomp is sivi at M=1": lambda: rescored("sivi-equicomp", "sivi", 5, 1),
    "equisample is equicomp at M=1": lambda: (
        bound_of("sivi-equisample", 5, 1),
        bound_of("sivi-equicomp", 5, 1),
    ),
    "an explicit prior is a hierarchical one with the true rho, L=1": lambda: prior_in_two_ways(1),
    "an explicit prior is a hierarchical one with the true rho, L=6": lambda: prior_in_two_ways(6),
    "the ELBO falls out where z ignores psi": elbo_of_an_ignored_psi,
}
