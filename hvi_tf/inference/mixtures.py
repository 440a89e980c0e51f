"""The mixture of an inverse model over all draws of z, which is one proposal for all of them.

Sobolev & Vetrov 2019, section 4.1, ask for a tau(psi|z_1:M,x) that does not depend on the
order of the z. The mean of the trained tau's is such a density:

    tau_bar(psi|z_1:M,x) = (1 - eps) 1/M sum_m tau(psi|z_m,x) + eps q(psi|x)

Given z_1:M, psi_m0 is a draw from q(psi|z_m,x) and psi_1:K are independent draws from tau_bar.
So theorem A.1 holds for each m with the same psi_1:K. The draws have to be independent, since
stratified draws would break the symmetry between psi_m0 and psi_k.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, randomness
from hvi_tf.inference import pairs


class Mixture(NamedTuple):
    """The mixture tau_bar of `component(z_m)` over m, with its draws and its log-density.

    Attributes:
        component: z `[..., B, Dz]` -> tau(psi|z), batch shape `[..., B]`.
        z: `[M, B, Dz]`.
        table: the log-densities under `component(z)`.
        mixing: q(psi), whose share is `defensive`. None if the share is 0.
        defensive: eps, from 0 to below 1. It bounds the weights q(psi) / tau_bar by 1/eps.
    """

    component: Callable[[tf.Tensor], tfd.Distribution]
    z: tf.Tensor
    table: pairs.Table
    mixing: tfd.Distribution | None = None
    defensive: float = 0.0

    def sample(self, n: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws n independent psi ~ tau_bar.

        Each psi has a gradient through the z and the parameters of its component. The index of
        the component is fixed by its seed and has no gradient.

        Args:
            n: the number of draws.
            seed: int32 `[2]`.

        Returns:
            `[n, 1, B, Dpsi]`.
        """
        component_seed, psi_seed, share_seed, mixing_seed = tf.unstack(tf.random.split(seed, 4))
        M, B = tf.unstack(tf.shape(self.z)[:2])
        uniform = randomness.uniform([n, B], component_seed, self.z.dtype)
        # Rounding may make the product M.
        index = tf.minimum(tf.cast(uniform * tf.cast(M, self.z.dtype), tf.int32), M - 1)
        index = tf.stack([index, tf.range(B) + 0 * index], axis=-1)
        if self.table.gaussian is None:
            psi = self.component(tf.gather_nd(self.z, index)).sample(seed=psi_seed)
        else:  # The means and scales are computed already.
            loc, scale = (tf.gather_nd(v, index) for v in self.table.gaussian)
            psi = loc + scale * randomness.normal(tf.shape(loc), psi_seed, loc.dtype)
        if self.mixing is not None:
            is_defensive = randomness.uniform([n, B], share_seed, self.z.dtype) < self.defensive
            defensive_psi = self.mixing.sample(n, seed=mixing_seed)
            psi = tf.where(is_defensive[..., tf.newaxis], defensive_psi, psi)
        return psi[:, tf.newaxis]

    def log_prob(self, psi: tf.Tensor) -> tf.Tensor:
        """Returns log tau_bar(psi|z_1:M,x).

        Args:
            psi: `[N, M', B, Dpsi]`.

        Returns:
            `[N, M', B]`, nats.
        """
        shape = tf.shape(psi)
        values = tf.reshape(psi, tf.concat([[shape[0] * shape[1]], shape[2:]], axis=0))
        log_prob = tf.transpose(bounds.log_mean_exp(self.table.log_prob(values), axis=-1))
        if self.mixing is not None:
            from_tau = math.log1p(-self.defensive) + log_prob
            from_mixing = math.log(self.defensive) + self.mixing.log_prob(values)
            log_prob = bounds.log_sum_exp(tf.stack([from_tau, from_mixing]))
        return tf.reshape(log_prob, shape[:-1])


def mixture(
    component: Callable[[tf.Tensor], tfd.Distribution],
    z: tf.Tensor,
    mixing: tfd.Distribution | None = None,
    defensive: float = 0.0,
) -> Mixture:
    """Returns the mixture (1 - eps) 1/M sum_m component(z_m) + eps mixing.

    The components are computed once.

    Args:
        component: z `[..., B, Dz]` -> tau(psi|z), batch shape `[..., B]`.
        z: `[M, B, Dz]`.
        mixing: q(psi). It may be None if `defensive` is 0.
        defensive: eps, from 0 to below 1.
    """
    table = pairs.Table(component(z))
    return Mixture(component, z, table, mixing if defensive else None, defensive)
