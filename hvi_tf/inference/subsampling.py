"""Random choice of the terms of a bound that are differentiated, by their weights.

The gradient of a log-mean-exp is the average of its terms' gradients under its normalized
weights:

    grad log 1/M sum_m exp(alpha_m) = sum_m w_m grad alpha_m

This is lemma 1 of Shu et al. 2019, applied to the sums over k and m of Sobolev & Vetrov 2019. A
forward pass computes the weights. A few terms drawn by these weights estimate the average
without bias, and only these terms need a backward pass. The sum over k always keeps the term
of psi_0, which tau did not draw and which is often the heaviest.
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
        m: indices of z, int32 `[M', B]`. None if all are kept.
        m_weight: 1 / E[number of times that z_m is drawn] `[M', B]`. 1 if all are kept.
        k: indices of psi_1:K for each of these z, int32 `[K', M', B]`.
        k_weight: 1 / E[number of times that psi_k is drawn] `[K', M', B]`. 1 if all are kept.
    """

    m: tf.Tensor | None
    m_weight: tf.Tensor | float
    k: tf.Tensor
    k_weight: tf.Tensor | float

    def sample(self, whole: LatentSample) -> LatentSample:
        """Returns the draws that the kept terms depend on, with separate psi for each z.

        Args:
            whole: the draws that all terms depend on.
        """
        z, psi_0, psi, zeta, log_q_z = whole
        return LatentSample(
            z=self._take_m(z),
            psi_0=None if psi_0 is None else self._take_m(psi_0),
            psi=None if psi is None else self._take_k(psi),
            zeta=None if zeta is None else self._take_m(zeta, axis=1),
            log_q_z=None if log_q_z is None else self._take_m(log_q_z),
        )

    def upstream(self, gradient: LogDensities) -> LogDensities:
        """Returns an unbiased estimate of `gradient` on the kept terms.

        Args:
            gradient: the gradient at the densities of all terms.
        """
        inner = (self._take_terms(g) for g in gradient[2:])
        return LogDensities(
            self.m_weight * self._take_m(gradient.log_likelihood),
            self.m_weight * self._take_m(gradient.log_prior, axis=1),
            *inner,
        )

    def _take_terms(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the kept and weighted terms: `[K+1, M, B]` -> `[K'+1, M', B]`."""
        first = self.m_weight * self._take_m(values[:1], axis=1)
        others = self.m_weight * self.k_weight * self._take_k(values[1:])
        return tf.concat([first, others], axis=0)

    def _take_m(self, values: tf.Tensor, axis: int = 0) -> tf.Tensor:
        """Returns the entries of the kept z along axis m, which is 0 or 1."""
        if self.m is None:
            return values
        if axis == 0:
            return _gather(values, self.m)
        return _gather(values, tf.range(tf.shape(values)[0])[:, tf.newaxis, tf.newaxis], self.m)

    def _take_k(self, values: tf.Tensor) -> tf.Tensor:
        """Returns the kept terms of `[K, M, B, ...]`, or of `[K, 1, B, ...]` if all z share psi."""
        m = tf.range(tf.shape(self.k)[1])[:, tf.newaxis] if self.m is None else self.m
        return _gather(values, self.k, tf.minimum(m, tf.shape(values)[1] - 1))


def keep(
    densities: LogDensities,
    counts: Counts,
    count: int,
    seed: tf.Tensor,
    warmup: Warmup = NO_WARMUP,
) -> Kept:
    """Draws S of the M terms over m by w, and for each of them S of psi_1:K by v.

    A sum of at most S terms is kept whole. An index i with weight w_i is drawn S w_i times on
    average, so its term gets the importance weight 1 / (S w_i).

    Args:
        densities: the log-densities of all terms, `[K+1, M, B]`.
        counts: K draws of psi for each z besides psi_0, and M draws of z.
        count: S >= 1.
        seed: int32 `[2]`.
        warmup: c_in and c_out, which the weights w and v depend on.
    """
    K, M = counts.K, counts.M
    m_seed, k_seed = tf.unstack(tf.random.split(seed, 2))
    all_k = tf.range(K)[:, tf.newaxis, tf.newaxis]
    batch = tf.shape(densities.log_likelihood)[1]
    k = all_k + tf.zeros([min(count, M), batch], tf.int32)
    kept = Kept(None, 1.0, k, 1.0)
    if count < M:
        w = bounds.normalized_weights(bounds.outer_log_weights(densities, *warmup))
        m = systematic_resampling(w, count, m_seed)
        kept = kept._replace(m=m, m_weight=tf.math.reciprocal_no_nan(count * _gather(w, m)))
    if count < K:
        log_ratios = bounds.inner_log_ratios(densities, warmup.inner)[1:]
        v = kept._take_m(bounds.normalized_weights(log_ratios), axis=1)
        k = systematic_resampling(v, count, k_seed)
        kept_m = tf.range(tf.shape(k)[1])[:, tf.newaxis]
        weight = tf.math.reciprocal_no_nan(count * _gather(v, k, kept_m))
        kept = kept._replace(k=k, k_weight=weight)
    return kept


def systematic_resampling(weights: tf.Tensor, count: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws S indices so that index n comes S w_n times on average.

    One uniform number places S equidistant points on the cumulative weights. So index n comes
    floor(S w_n) times or once more.

    Args:
        weights: w `[N, ...]`, which sum to 1 over axis 0.
        count: S >= 1.
        seed: int32 `[2]`. The indices are a pure function of it and the weights.

    Returns:
        int32 `[S, ...]`, from 0 to N-1.
    """
    start = randomness.uniform(tf.shape(weights)[1:], seed, weights.dtype)
    cumulative = tf.cumsum(weights, axis=0)
    below = [cumulative <= (start + i) / count for i in range(count)]
    indices = tf.stack([tf.reduce_sum(tf.cast(b, tf.int32), axis=0) for b in below])
    # Rounding may leave the sum slightly below 1, and then an index may be N.
    return tf.minimum(indices, tf.shape(weights)[0] - 1)


def _gather(values: tf.Tensor, *indices: tf.Tensor) -> tf.Tensor:
    """Returns values[i_1, ..., i_n, b] for broadcastable indices `[..., B]`."""
    parts = [*indices, tf.range(tf.shape(values)[len(indices)])]
    zeros = 0 * sum(parts[1:], start=parts[0])
    return tf.gather_nd(values, tf.stack([part + zeros for part in parts], axis=-1))
