"""The mixture of an inverse model over all draws of z: one proposal for every one of them.

Sobolev & Vetrov 2019, section 4.1, ask for a tau(psi|z_1:M,x) that does not depend on the
order of the z. The mean of the trained tau's is one:

    tau_bar(psi|z_1:M,x) = (1 - eps) mean_m tau(psi|z_m,x) + eps q(psi|x)

Given z_1:M, psi_m0 is a draw of q(psi|z_m,x) and psi_1:K are independent draws of tau_bar, so
theorem A.1 holds for each m by itself, with K psi for all M of them. The draws have to be
independent: stratified ones would break the symmetry between psi_m0 and psi_k.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, randomness
from hvi_tf.inference import pairs


class Mixture(NamedTuple):
    """tau_bar, the mean of `component(z_m)` over m, as far as the bounds need it.

    Attributes:
        component: z `[..., B, Dz]` -> tau(psi|z), batch shape `[..., B]`.
        z: `[M, B, Dz]`.
        table: the log-densities under `component(z)`.
        mixing: q(psi), whose share is `defensive`; None if that is 0.
        defensive: eps, from 0 to below 1; it bounds the weights q(psi) / tau_bar by 1/eps.
    """

    component: Callable[[tf.Tensor], tfd.Distribution]
    z: tf.Tensor
    table: pairs.Table
    mixing: tfd.Distribution | None = None
    defensive: float = 0.0

    def sample(self, n: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws `[n, 1, B, Dpsi]`, independent ones.

        They have a gradient through the z and the weights of the component that each is from;
        which one it is depends on neither.
        """
        which_seed, psi_seed, share_seed, mixing_seed = tf.unstack(tf.random.split(seed, 4))
        M, B = tf.unstack(tf.shape(self.z)[:2])
        uniform = randomness.uniform([n, B], which_seed, self.z.dtype)
        # Rounding may make the product M.
        which = tf.minimum(tf.cast(uniform * tf.cast(M, self.z.dtype), tf.int32), M - 1)
        which = tf.stack([which, tf.range(B) + 0 * which], axis=-1)
        if self.table.gaussian is None:
            psi = self.component(tf.gather_nd(self.z, which)).sample(seed=psi_seed)
        else:  # without another pass through the network
            loc, scale = (tf.gather_nd(v, which) for v in self.table.gaussian)
            psi = loc + scale * randomness.normal(tf.shape(loc), psi_seed, loc.dtype)
        if self.mixing is not None:
            defensive = randomness.uniform([n, B], share_seed, self.z.dtype) < self.defensive
            other = self.mixing.sample(n, seed=mixing_seed)
            psi = tf.where(defensive[..., tf.newaxis], other, psi)
        return psi[:, tf.newaxis]

    def log_prob(self, psi: tf.Tensor) -> tf.Tensor:
        """Log tau_bar, `[N, M', B, Dpsi] -> [N, M', B]`."""
        shape = tf.shape(psi)
        values = tf.reshape(psi, tf.concat([[shape[0] * shape[1]], shape[2:]], axis=0))
        log_prob = tf.transpose(bounds.log_mean_exp(self.table.log_prob(values), axis=-1))
        if self.mixing is not None:
            own = math.log1p(-self.defensive) + log_prob
            other = math.log(self.defensive) + self.mixing.log_prob(values)
            log_prob = bounds.log_sum_exp(tf.stack([own, other]))
        return tf.reshape(log_prob, shape[:-1])


def mixture(
    component: Callable[[tf.Tensor], tfd.Distribution],
    z: tf.Tensor,
    mixing: tfd.Distribution | None = None,
    defensive: float = 0.0,
) -> Mixture:
    """The mixture over all z, whose components are computed once."""
    table = pairs.Table(component(z))
    return Mixture(component, z, table, mixing if defensive else None, defensive)
