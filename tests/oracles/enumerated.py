"""Exact expectations of bounds over every outcome of discrete models."""

import functools
import itertools

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds
from hvi_tf.bounds import jackknife
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import kl, sandwich
from hvi_tf.inference.methods import METHODS
from tests.oracles.closed_forms import CASES, HIERARCHICAL, free_axes
from tests.oracles.discrete import Discrete

TOYS = {False: Discrete(), True: Discrete(hierarchical_prior=True)}

# The fixed counts and the steps along each axis.
DISCRETE_STEPS = {
    "K": (dict(M=2, L=1), (0, 1, 2)),
    "L": (dict(K=1, M=1), (1, 2, 3, 4)),
    "M": (dict(K=1, L=1), (1, 2)),
}

NO_X = tf.zeros([1, 1])  # the toy ignores it


@functools.cache
def discrete_expectations(name, hierarchical_prior, K, M, L):
    """Returns E exp(bound), E bound and the total probability, over every possible draw."""
    toy, method = TOYS[hierarchical_prior], METHODS[name]
    sample, probability = toy.outcomes(method, K, M, L)
    value = bounds.bound(densities_lib.log_densities(toy.model, method, NO_X, sample)).numpy()
    return probability @ np.exp(value), probability @ value, probability.sum()


def discrete_ladder(name, hierarchical_prior, axis):
    """Returns the exact expectations along one axis."""
    method = METHODS[name]
    others, steps = DISCRETE_STEPS[axis]
    if "K" in others and not method.K.free:
        others = {**others, "K": 0}
    if "M" in others and not method.M.free:
        others = {**others, "M": 1}
    return [discrete_expectations(name, hierarchical_prior, **others, **{axis: i}) for i in steps]


def discrete_cases():
    """Yields each method under each prior, along each free axis or along None."""
    for name, lg in CASES:
        hierarchical = lg is HIERARCHICAL
        for axis in free_axes(name, lg) or [None]:
            yield name, hierarchical, axis


def discrete_values(name, hierarchical_prior, axis):
    """Returns the exact expectations at each step of the axis."""
    if axis is None:
        return [discrete_expectations(name, hierarchical_prior, K=0, M=1, L=1)]
    return discrete_ladder(name, hierarchical_prior, axis)


TOY = Discrete(z_values=3, hierarchical_prior=True)


def exact_upper(mixing, conditional, inverse, weights, K):
    """Returns E U_K over z ~ weights, psi_0 ~ q(psi|z) and psi_1:K ~ the inverse."""
    joint = mixing[:, None] * conditional
    total = 0.0
    for z, weight in enumerate(weights):
        posterior = joint[:, z] / joint[:, z].sum()
        for psi in itertools.product(range(len(mixing)), repeat=K + 1):
            probability = posterior[psi[0]] * np.prod([inverse[z, k] for k in psi[1:]])
            ratios = [joint[k, z] / inverse[z, k] for k in psi]
            total += weight * probability * np.log(np.mean(ratios))
    return total


def exact_lower(mixing, conditional, inverse, weights, K):
    """Returns E L_K over z ~ weights and psi_1:K ~ the inverse."""
    joint = mixing[:, None] * conditional
    total = 0.0
    for z, weight in enumerate(weights):
        for psi in itertools.product(range(len(mixing)), repeat=K):
            ratios = [joint[k, z] / inverse[z, k] for k in psi]
            probability = np.prod([inverse[z, k] for k in psi])
            total += weight * probability * np.log(np.mean(ratios))
    return total


def discrete_tables(which):
    """Returns the mixing, conditional and inverse probabilities of q or of p."""
    if which == "q":
        return TOY.q_psi, TOY.q_z, TOY.tau_table
    return TOY.p_zeta, TOY.p_z_given_zeta, TOY.rho_table


def discrete_marginal_ladder():
    """Returns E of L_1, L_2, L_4, log q(z), U_4, U_2, U_1 and U_0 under q(z)."""
    tables, q_z = discrete_tables("q"), TOY.q_psi @ TOY.q_z
    lower = [exact_lower(*tables, q_z, K) for K in (1, 2, 4)]
    return [*lower, q_z @ np.log(q_z), *(exact_upper(*tables, q_z, K) for K in (4, 2, 1, 0))]


def discrete_kl(K, L):
    """Returns E kl_lower, KL and E kl_upper."""
    q, p, q_z = discrete_tables("q"), discrete_tables("p"), TOY.q_psi @ TOY.q_z
    return (
        exact_lower(*q, q_z, K) - exact_upper(*p, q_z, L),
        q_z @ (np.log(q_z) - np.log(TOY.p_z)),
        exact_upper(*q, q_z, K) - exact_lower(*p, q_z, L),
    )


def discrete_information(K):
    """Returns E of the lower end, I(z; psi) and E of the upper end."""
    q, q_z = discrete_tables("q"), TOY.q_psi @ TOY.q_z
    conditional = np.sum(TOY.q_psi[:, None] * TOY.q_z * np.log(TOY.q_z))
    return (
        conditional - exact_upper(*q, q_z, K),
        conditional - q_z @ np.log(q_z),
        conditional - exact_lower(*q, q_z, K),
    )


@functools.cache
def discrete_estimates(K, L, seed, n=100_000):
    """Returns kl_lower, kl_upper and both ends of the mutual information, each `[n]`."""
    q, p = TOY.proposal, TOY.model.prior
    posterior = TOY.p_zeta[:, None] * TOY.p_z_given_zeta / TOY.p_z

    def draw(z, seed):
        probs = tf.linalg.matmul(z, posterior.T)
        return tfd.OneHotCategorical(probs=probs, dtype=tf.float64).sample(seed=seed)

    s = [tf.constant([seed, i]) for i in (11, 12, 13)]
    information = sandwich.mutual_information(q, n=n, K=K, seed=s[2])
    return (
        kl.kl_lower(q, p, n=n, K=K, L=L, posterior=draw, seed=s[0]),
        kl.kl_upper(q, p, n=n, K=K, L=L, seed=s[1]),
        information.lower,
        information.upper,
    )


def exact_bias(K, orders):
    """Returns E of each order's jackknife estimate minus log q(z), on a discrete toy."""
    toy = Discrete(z_values=2, psi_values=2, seed=8)
    z_values, psi_values = toy.q_z.shape[1], len(toy.q_psi)
    joint = toy.q_psi[:, None] * toy.q_z  # [psi, z]
    toy.tau_table = 0.6 * toy.tau_table + 0.4 * (joint / joint.sum(axis=0)).T
    bias = np.zeros(len(orders))
    for z in range(z_values):
        log_ratio = np.log(joint[:, z]) - np.log(toy.tau_table[z])
        outcomes = np.array(list(itertools.product(range(psi_values), repeat=K + 1)))
        probability = (joint[:, z] / joint[:, z].sum())[outcomes[:, 0]]
        probability *= np.prod(toy.tau_table[z][outcomes[:, 1:]], axis=1)
        beta = tf.constant(log_ratio[outcomes].T)
        for i, order in enumerate(orders):
            estimate = jackknife.jackknife(beta, order).numpy()
            bias[i] += joint[:, z].sum() * (probability @ estimate - toy.log_q[z])
    return bias
