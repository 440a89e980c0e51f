"""The objective of one step: a draw, its log-densities and the bound, recorded on a tape."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling, subsampling
from hvi_tf.inference.methods import NO_WARMUP, Counts, Method, Warmup
from hvi_tf.inference.model import LatentSample, Model, ParameterGroups, Prepare, prepared
from hvi_tf.inference.subsampling import Kept

# These estimators need the derivative of an explicit log q(z|x) at z. A distribution may compute
# the density of its own draws from their noise, and such a density has no derivative at z.
AT_Z = ("stl", "iwae-dreg")


class FreeBits(NamedTuple):
    """Nats of a batch's mean KL divergence that cost nothing (Kingma et al. 2016, eq 15).

    The cost max(KL, free) has the gradient of KL above `free` and no gradient below. So each
    term is either kept or left out, by the mean of its KL over the batch.

    Attributes:
        inner: free nats of KL(tau || q(psi|x)), for the term log q(psi|x) - log tau. The KL is
            estimated at psi_1:K, or at psi_0 if K=0.
        outer: free nats of KL(q(z|x) || p(z)), for the term log p(z) - U.
    """

    inner: float = 0.0
    outer: float = 0.0

    def weights(self, densities: LogDensities, warmup: Warmup) -> Warmup:
        """Returns the warm-up weights, with 0 for a term whose KL is below its free nats.

        Args:
            densities: the arrays of one draw.
            warmup: c_in and c_out.
        """
        inner, outer = (tf.convert_to_tensor(weight) for weight in warmup)
        if self.inner:
            log_ratios = densities.log_tau - densities.log_q_psi
            kl_inner = log_ratios[1:] if log_ratios.shape[0] > 1 else log_ratios
            inner = inner * tf.cast(tf.reduce_mean(kl_inner) > self.inner, inner.dtype)
        if self.outer:
            log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(densities))
            kl_outer = tf.reduce_mean(log_q - bounds.log_mean_exp(densities.log_prior))
            outer = outer * tf.cast(kl_outer > self.outer, outer.dtype)
        return Warmup(inner, outer)


NO_FREE_BITS = FreeBits()


class Objective(NamedTuple):
    """A scalar to be maximized and the arrays that it was computed from.

    Attributes:
        value: the mean of the (possibly warmed-up) bound over the batch, nats.
        method: the method.
        sample: the draw.
        densities: the log-densities of the draw.
        warmup: c_in and c_out, 0 for a term that free bits leave out.
        recorded: the log-densities on the tape, of all terms or of those in `kept`.
        ascent: the gradient of `value` at `recorded`.
        kept: the terms on the tape. None if all are.
    """

    value: tf.Tensor
    method: Method
    sample: LatentSample
    densities: LogDensities
    warmup: Warmup
    recorded: LogDensities
    ascent: LogDensities
    kept: Kept | None = None

    def upstream(self, gradient: LogDensities) -> LogDensities:
        """Returns the gradient at `recorded` that estimates a gradient at `densities`.

        Args:
            gradient: the gradient at `densities`.
        """
        return gradient if self.kept is None else self.kept.upstream(gradient)


def record(
    model: Model | Prepare,
    method: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    counts: Counts,
    seed: tf.Tensor,
    *,
    estimators: Sequence[str] = ("reparameterized",),
    warmup: Warmup = NO_WARMUP,
    backward_samples: int = 0,
    free_bits: FreeBits = NO_FREE_BITS,
) -> tuple[tf.GradientTape, Objective]:
    """Draws once on a persistent tape, which the gradient estimators use.

    Args:
        model: the callables, or a function that makes them for x.
        method: the method.
        x: observations `[B, ...]`.
        variables: the parameter groups. The tape watches their tensors; variables need no watch.
        counts: numbers of draws.
        seed: int32 `[2]`. The draw is a pure function of it.
        estimators: the keys of the `gradients.ESTIMATORS` that will use the tape.
        warmup: c_in and c_out.
        backward_samples: S, the number of terms over k and over m to differentiate. 0 takes all.
        free_bits: nats of KL that cost nothing.

    Returns:
        The tape and the objective.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([v for group in variables for v in group if isinstance(v, tf.Tensor)])
        return tape, observe(
            tape,
            prepared(model, x),
            method,
            x,
            counts,
            seed,
            estimators=estimators,
            warmup=warmup,
            backward_samples=backward_samples,
            free_bits=free_bits,
        )


def observe(
    tape: tf.GradientTape,
    model: Model,
    method: Method,
    x: tf.Tensor,
    counts: Counts,
    seed: tf.Tensor,
    *,
    estimators: Sequence[str] = ("reparameterized",),
    warmup: Warmup = NO_WARMUP,
    backward_samples: int = 0,
    free_bits: FreeBits = NO_FREE_BITS,
) -> Objective:
    """Draws once while `tape` records, and computes the bound and its gradient at the densities.

    Args:
        tape: a persistent tape that is recording.
        model: the callables.
        method: the method.
        x: observations `[B, ...]`.
        counts: numbers of draws.
        seed: int32 `[2]`. The draw is a pure function of it.
        estimators: the keys of the `gradients.ESTIMATORS` that will use the tape.
        warmup: c_in and c_out.
        backward_samples: S, the number of terms over k and over m to differentiate. 0 takes all.
        free_bits: nats of KL that cost nothing.
    """
    sample = sampling.draw(model, method, x, counts, seed)
    if any(name in AT_Z for name in estimators):
        sample = sample._replace(log_q_z=None)
    kept = None
    if 0 < backward_samples < number_of_terms(method, counts):
        with tape.stop_recording():
            densities = densities_lib.log_densities(model, method, x, sample)
            warmup = _as_weights(densities, warmup, free_bits)
            kept = subsampling.keep(
                densities,
                counts._replace(K=method.psi_per_z(counts) if method.hierarchical else 0),
                backward_samples,
                randomness.substream(seed, randomness.StepStream.RESAMPLE),
                warmup,
            )
        unshared = method._replace(shared="no")
        recorded = densities_lib.log_densities(model, unshared, x, kept.sample(sample))
    else:
        densities = recorded = densities_lib.log_densities(model, method, x, sample)
        warmup = _as_weights(densities, warmup, free_bits)
    with tape.stop_recording():
        with tf.GradientTape() as arrays:
            arrays.watch(densities)
            value = tf.reduce_mean(bounds.bound(densities, *warmup))
        ascent = arrays.gradient(value, densities)
        ascent = ascent if kept is None else kept.upstream(ascent)
    return Objective(value, method, sample, densities, warmup, recorded, ascent, kept)


def number_of_terms(method: Method, counts: Counts) -> int:
    """Returns the number of terms in the longer one of the sums over k >= 1 and over m.

    Args:
        method: the method.
        counts: numbers of draws.
    """
    per_z = method.psi_per_z(counts) if method.hierarchical else 0
    return max(per_z, counts.M)


def _as_weights(densities: LogDensities, warmup: Warmup, free_bits: FreeBits) -> Warmup:
    """Returns the warm-up weights after free bits, in the dtype of the densities."""
    dtype = densities.log_q_z.dtype
    weights = Warmup(*(bounds.as_weight(weight, dtype) for weight in warmup))
    return free_bits.weights(densities, weights)
