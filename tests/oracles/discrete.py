"""A model of discrete variables: every expectation is a finite sum."""

import itertools

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf.inference.model import Hierarchy, LatentSample, Model


class Discrete:
    """A model of one-hot variables, whose expectations are sums over all outcomes."""

    def __init__(self, z_values=3, psi_values=2, zeta_values=2, seed=3, hierarchical_prior=False):
        rng = np.random.default_rng(seed)

        def table(*shape):
            return rng.dirichlet(np.full(shape[-1], 1.5), size=shape[:-1])

        self.q_psi = table(psi_values)
        self.q_z = table(psi_values, z_values)  # q(z|psi)
        self.tau_table = table(z_values, psi_values)  # tau(psi|z)
        self.p_zeta = table(zeta_values)
        self.p_z_given_zeta = table(zeta_values, z_values)
        self.rho_table = table(z_values, zeta_values)  # rho(zeta|z)
        self.likelihood_of = rng.uniform(0.1, 0.9, size=z_values)  # p(x|z) of the one x
        self.hierarchical_prior = hierarchical_prior
        self.p_z = self.p_zeta @ self.p_z_given_zeta

    @property
    def model(self):
        def lookup(table, one_hot):
            return tfd.OneHotCategorical(probs=tf.tensordot(one_hot, table, 1), dtype=tf.float64)

        def one_hot(probs):
            # TFP converts a NumPy array to float32.
            return tfd.OneHotCategorical(probs=tf.constant(probs), dtype=tf.float64)

        if self.hierarchical_prior:
            prior = Hierarchy(
                one_hot(self.p_zeta),
                lambda zeta: lookup(self.p_z_given_zeta, zeta),
                lambda z: lookup(self.rho_table, z),
            )
        else:
            prior = one_hot(self.p_z)
        return Model(
            prior,
            likelihood=lambda z: _Constant(tf.linalg.matvec(z, tf.math.log(self.likelihood_of))),
            conditional=lambda psi, x: (
                one_hot(self.q_psi @ self.q_z) if psi is None else lookup(self.q_z, psi)
            ),
            mixing=lambda x: one_hot(self.q_psi),
            tau=lambda z, x: lookup(self.tau_table, z),
        )

    @property
    def proposal(self):
        model = self.model
        return Hierarchy(
            model.mixing(None),
            lambda psi: model.conditional(psi, None),
            lambda z: model.tau(z, None),
        )

    @property
    def log_evidence(self):
        return np.log(self.p_z @ self.likelihood_of)

    @property
    def log_q(self):
        """Returns log q(z) of each value."""
        return np.log(self.q_psi @ self.q_z)

    def outcomes(self, method, K, M, L=1):
        """Returns every possible draw of a method as one batch `[B]`, and its probability `[B]`."""
        psi, z, zeta = len(self.q_psi), self.q_z.shape[1], len(self.p_zeta)
        L = L if self.hierarchical_prior and not method.zeta_is_psi_0 else 0
        own_psi, shared_psi = (
            (K, 0) if not method.shares_psi else (0, M * K if method.shared == "MK" else K)
        )
        own_zeta, shared_zeta = (0, L) if method.shares_zeta else (L, 0)
        one_z = list(
            itertools.product(
                *(range(psi), range(z), *[range(psi)] * own_psi, *[range(zeta)] * own_zeta)
            )
        )
        common = itertools.product(*[range(psi)] * shared_psi, *[range(zeta)] * shared_zeta)
        drawn_values, probs = [], []
        for draws in itertools.product(*[one_z] * M, list(common)):
            *per_z, shared = draws
            drawn_values.append((per_z, shared))
            psi_probs, zeta_probs = self._mixtures(method, [d[1] for d in per_z])
            probs.append(
                np.prod([self._probability(method, own_psi, *d) for d in per_z])
                * np.prod([psi_probs[i] for i in shared[:shared_psi]])
                * np.prod([zeta_probs[i] for i in shared[shared_psi:]])
            )
        eye = np.eye

        def stack(index, values):
            return np.array([[eye(values)[d[index]] for d in per_z] for per_z, _ in drawn_values])

        def stack_shared(first, count, values):
            drawn = np.array([eye(values)[list(c[first : first + count])] for _, c in drawn_values])
            return drawn.transpose(1, 0, 2)[:, None]  # [count, 1, B, values]

        def stack_own(first, count, values):
            drawn = [stack(first + i, values).transpose(1, 0, 2) for i in range(count)]
            return np.reshape(drawn, (count, M, len(drawn_values), values))

        psi_k = stack_shared(0, shared_psi, psi) if shared_psi else stack_own(2, own_psi, psi)
        if shared_zeta:
            zetas = stack_shared(shared_psi, shared_zeta, zeta)
        else:
            zetas = stack_own(2 + own_psi, own_zeta, zeta)
        sample = LatentSample(
            z=tf.constant(stack(1, z).transpose(1, 0, 2)),
            psi_0=tf.constant(stack(0, psi).transpose(1, 0, 2)),
            psi=tf.constant(psi_k),
            zeta=tf.constant(zetas) if L else None,
        )
        if method.zeta_is_psi_0:
            sample = sample._replace(zeta=sample.psi_0[tf.newaxis])
        if not method.hierarchical:  # the probabilities of psi_0 add up to those of q(z)
            sample = sample._replace(psi_0=None, psi=None)
        return sample, np.array(probs)

    def _mixtures(self, method, z):
        """Returns the probabilities of a shared psi and of a shared zeta, given all z."""
        psi_probs = self.q_psi
        if method.mixes:
            own = np.mean(self.tau_table[z], axis=0)
            psi_probs = (1.0 - method.defensive) * own + method.defensive * self.q_psi
        return psi_probs, np.mean(self.rho_table[z], axis=0)

    def _probability(self, method, K, psi_0, z, *rest):
        inverse = self.tau_table[z] if method.has_own_tau else self.q_psi
        outer = self.rho_table[z] if method.zeta == "rho" else self.p_zeta
        result = self.q_psi[psi_0] * self.q_z[psi_0, z]
        result *= np.prod([inverse[k] for k in rest[:K]])
        return result * np.prod([outer[i] for i in rest[K:]])


class _Constant:
    """The likelihood of the only observation."""

    def __init__(self, value):
        self.value = value

    def log_prob(self, x):
        return self.value
