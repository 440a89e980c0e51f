"""Draws the terms of a bound that are differentiated, in proportion to their weights.

The gradient of a log-mean-exp is the average of its terms' gradients under its normalized
weights: lemma 1 of Shu et al. 2019, here for the sums over k and m of Sobolev & Vetrov
2019. A forward pass computes the weights. A few terms drawn with them estimate the
average without bias, and only these need a backward pass. The sum over k always keeps
the term of psi_0: tau did not draw it, and it is often the heaviest.
"""

from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.inference.methods import NO_WARMUP, Counts, Warmup
from hvi_tf.inference.model import LatentSample


class Kept(NamedTuple):
    """The terms to be differentiated, with their importance weights.

    Attributes:
        m: which z, int32 `[M', B]`; None if all.
        m_weight: 1 / E[how often it is drawn] `[M', B]`; 1 if all.
        k: which of psi_1:K for each of them, int32 `[K', M', B]`.
        k_weight: 1 / E[how often it is drawn] `[K', M', B]`; 1 if all.
    """

    m: tf.Tensor | None
    m_weight: tf.Tensor | float
    k: tf.Tensor
    k_weight: tf.Tensor | float

    def sample(self, drawn: LatentSample) -> LatentSample:
        """Returns the draws that the kept terms depend on, with own psi for each z."""
        z, psi_0, psi, zeta, log_q_z = drawn
        return LatentSample(
            z=self._of_m(z),
            psi_0=None if psi_0 is None else self._of_m(psi_0),
            psi=None if psi is None else self._of_k(psi),
            zeta=None if zeta is None else self._of_m(zeta, axis=1),
            log_q_z=None if log_q_z is None else self._of_m(log_q_z),
        )

    def upstream(self, gradient: LogDensities) -> LogDensities:
        """Returns the gradient at the kept terms whose mean is that of `gradient` at all terms."""
        inner = (self._of_terms(g) for g in gradient[2:])
        return LogDensities(
            self.m_weight * self._of_m(gradient.log_likelihood),
            self.m_weight * self._of_m(gradient.log_prior, axis=1),
            *inner,
        )

    def _of_terms(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the kept, weighted terms: `[K+1, M, B]` -> `[K'+1, M', B]`."""
        first = self.m_weight * self._of_m(values[:1], axis=1)
        others = self.m_weight * self.k_weight * self._of_k(values[1:])
        return tf.concat([first, others], axis=0)

    def _of_m(self, values: tf.Tensor, axis: int = 0) -> tf.Tensor:
        if self.m is None:
            return values
        if axis == 0:
            return _gather(values, self.m)
        return _gather(values, tf.range(tf.shape(values)[0])[:, tf.newaxis, tf.newaxis], self.m)

    def _of_k(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the kept terms of `[K, M, B, ...]`, or of `[K, 1, B, ...]` if shared by all z."""
        m = tf.range(tf.shape(self.k)[1])[:, tf.newaxis] if self.m is None else self.m
        return _gather(values, self.k, tf.minimum(m, tf.shape(values)[1] - 1))


def keep(
    densities: LogDensities,
    counts: Counts,
    count: int,
    seed: tf.Tensor,
    warmup: Warmup = NO_WARMUP,
) -> Kept:
    """Draws `count` of the M terms over m, and for each of them `count` of psi_1:K.

    Where there are no more than `count`, all are kept.

    Args:
        densities: of all terms, `[K+1, M, B]`.
        counts: K draws of psi for each z besides psi_0, and M draws of z.
        count: S >= 1.
        seed: int32 `[2]`.
        warmup: the weights of the terms depend on it.
    """
    K, M = counts.K, counts.M
    m_seed, k_seed = tf.unstack(tf.random.split(seed, 2))
    every = tf.range(K)[:, tf.newaxis, tf.newaxis]
    batch = tf.shape(densities.log_likelihood)[1]
    k = every + tf.zeros([min(count, M), batch], tf.int32)
    kept = Kept(None, 1.0, k, 1.0)
    if count < M:
        w = bounds.normalized_weights(bounds.outer_log_weights(densities, *warmup))
        m = systematic_resampling(w, count, m_seed)
        kept = kept._replace(m=m, m_weight=tf.math.reciprocal_no_nan(count * _gather(w, m)))
    if count < K:
        log_ratios = bounds.inner_log_ratios(densities, warmup.inner)[1:]
        v = kept._of_m(bounds.normalized_weights(log_ratios), axis=1)
        k = systematic_resampling(v, count, k_seed)
        rows = tf.range(tf.shape(k)[1])[:, tf.newaxis]
        weight = tf.math.reciprocal_no_nan(count * _gather(v, k, rows))
        kept = kept._replace(k=k, k_weight=weight)
    return kept


def systematic_resampling(weights: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws indices: i comes floor(count w_i) times or once more, and count w_i times on average.

    A single uniform number places `count` equidistant points on the cumulated weights.

    Args:
        weights: `[N, ...]`, which sum to 1 over axis 0.
        count: how many, >= 1.
        seed: int32 `[2]`.

    Returns:
        int32 `[count, ...]`.
    """
    start = randomness.uniform(tf.shape(weights)[1:], seed, weights.dtype)
    cumulated = tf.cumsum(weights, axis=0)
    below = [cumulated <= (start + i) / count for i in range(count)]
    indices = tf.stack([tf.reduce_sum(tf.cast(b, tf.int32), axis=0) for b in below])
    # Rounding may leave the sum a little short of 1; the weight there may be 0.
    return tf.minimum(indices, tf.shape(weights)[0] - 1)


def _gather(values: tf.Tensor, *indices: tf.Tensor) -> tf.Tensor:
    """Returns values[i_1, ..., i_n, b] for indices `[..., B]` that broadcast."""
    parts = [*indices, tf.range(tf.shape(values)[len(indices)])]
    zeros = 0 * sum(parts[1:], start=parts[0])
    return tf.gather_nd(values, tf.stack([part + zeros for part in parts], axis=-1))
