"""Gradient estimators: how a bound becomes a gradient for each group of parameters.

An estimator is independent of the bound: it reads the arrays that the bound was
reduced from. All gradients are in the ascent direction.

A density that a draw comes from enters the gradient twice: through the draw (the path)
and directly. The direct term has the form of a score, whose noise stays when the signal
vanishes; "doubly reparameterized" estimators replace it by another path, without bias
(Tucker et al. 2019; Bauer & Mnih 2021).

| estimator | phi | eta (tau) | rho | unbiased |
|---|---|---|---|---|
| reparameterized | autodiff | autodiff | autodiff | yes |
| stl | path only | autodiff | autodiff | for M=1 without inner warm-up |
| iwae-dreg, gdreg | doubly reparameterized | eq 9 | doubly reparameterized | yes |
| dreg | autodiff | eq 9 | autodiff | yes |
| dreg-biased | autodiff | eq 9 without psi_0's term | autodiff | no |
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import sampling, subsampling
from hvi_tf.inference.methods import Method
from hvi_tf.inference.sampling import LatentSample, Model, Prepare
from hvi_tf.inference.subsampling import Kept

# Beside the seeds of the draws.
_RESAMPLING = 1


class ParameterGroups(NamedTuple):
    """Trainable variables, or their gradients, by the density they belong to."""

    theta: Sequence[Any] = ()  # the model p(x,z)
    phi: Sequence[Any] = ()  # the proposal q(z,psi|x)
    eta: Sequence[Any] = ()  # its inverse tau(psi|z,x)
    rho: Sequence[Any] = ()  # the prior's inverse rho(zeta|z)
    pi: Sequence[Any] = ()  # the weights of a buffer of proposals


class FreeBits(NamedTuple):
    """Nats of a batch's mean KL divergence that cost nothing (Kingma et al. 2016, eq 15).

    max(KL, free) has the gradient of KL above `free` and none below, so a term is either
    whole or left out, by the mean over the batch.
    """

    inner: float = 0.0  # of KL(tau||q(psi)), by psi_1:K (psi_0 at K=0), for log q(psi|x) - log tau
    outer: float = 0.0  # of KL(q(z|x)||p(z)), for log p(z) - U

    def weights(
        self, densities: LogDensities, inner: tf.Tensor, outer: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the warm-up weights, each 0 where its term is free."""
        if self.inner:
            log_ratios = densities.log_tau - densities.log_q_psi
            of_tau = log_ratios[1:] if log_ratios.shape[0] > 1 else log_ratios
            inner = inner * tf.cast(tf.reduce_mean(of_tau) > self.inner, inner.dtype)
        if self.outer:
            log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(densities))
            kl_outer = tf.reduce_mean(log_q - bounds.log_mean_exp(densities.log_prior))
            outer = outer * tf.cast(kl_outer > self.outer, outer.dtype)
        return inner, outer


NO_FREE_BITS = FreeBits()


class Objective(NamedTuple):
    """A scalar to be maximised and what it was computed from.

    Attributes:
        value: mean of the (possibly warmed-up) bound over the batch, nats.
        method: the row of the table.
        sample: the draw.
        densities: the log-densities of the draw.
        inner: warm-up c_in; 0 where free bits leave its term out.
        outer: warm-up c_out; 0 where free bits leave its term out.
        recorded: the log-densities that the tape knows: all, or those of the terms kept.
        kept: which these are; None if all.
    """

    value: tf.Tensor
    method: Method
    sample: LatentSample
    densities: LogDensities
    inner: tf.Tensor
    outer: tf.Tensor
    recorded: LogDensities
    kept: Kept | None = None

    def upstream(self, gradient: LogDensities) -> LogDensities:
        """What to send into `recorded` for a gradient at `densities`."""
        return gradient if self.kept is None else self.kept.upstream(gradient)

    @property
    def ascent(self) -> LogDensities:
        """What to send into `recorded` for the gradient of `value`."""
        with tf.GradientTape() as arrays:
            arrays.watch(self.densities)
            value = tf.reduce_mean(bounds.bound(self.densities, self.inner, self.outer))
        return self.upstream(arrays.gradient(value, self.densities))


def value_and_gradients(
    model: Model | Prepare,
    method: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    *,
    K: int,
    M: int,
    L: int = 1,
    seed: tf.Tensor,
    estimator: str = "reparameterized",
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
    backward_samples: int = 0,
    free_bits: FreeBits = NO_FREE_BITS,
) -> tuple[Objective, ParameterGroups]:
    """Draws once and returns the objective with its gradient for every group, unchecked.

    `inference.value_and_gradients` has the same arguments, describes them, and checks them;
    all but `free_bits`, which suit the training of an autoencoder.
    """
    tape, objective = record(
        *(model, method, x, variables),
        **dict(K=K, M=M, L=L, seed=seed, inner=inner, outer=outer),
        backward_samples=backward_samples,
        free_bits=free_bits,
        estimators=[estimator],
    )
    return objective, ESTIMATORS[estimator](tape, objective, variables)


def record(
    model: Model | Prepare,
    method: Method,
    x: tf.Tensor,
    variables: ParameterGroups,
    *,
    K: int,
    M: int,
    L: int = 1,
    seed: tf.Tensor,
    inner: float | tf.Tensor = 1.0,
    outer: float | tf.Tensor = 1.0,
    backward_samples: int = 0,
    free_bits: FreeBits = NO_FREE_BITS,
    estimators: Sequence[str] = ("reparameterized",),
) -> tuple[tf.GradientTape, Objective]:
    """Draws once on a tape, from which each of `estimators` can be read; see above."""
    per_z = sampling.psi_per_z(method, K, M) if method.hierarchical else 0
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([v for group in variables for v in group if isinstance(v, tf.Tensor)])
        model = sampling.prepared(model, x)
        sample = sampling.draw(model, method, x, K=K, M=M, L=L, seed=seed)
        if any(name in AT_Z for name in estimators):
            sample = sample._replace(log_q_z=None)
        kept = None
        if 0 < backward_samples < max(per_z, M):
            with tape.stop_recording():
                densities = sampling.log_densities(model, method, x, sample)
                inner, outer = _as_weights(densities, inner, outer, free_bits)
                kept = subsampling.keep(
                    *(densities, per_z, M, backward_samples),
                    *(tf.random.fold_in(seed, _RESAMPLING), inner, outer),
                )
            unshared = method._replace(shared="no")
            recorded = sampling.log_densities(model, unshared, x, kept.sample(sample))
        else:
            densities = recorded = sampling.log_densities(model, method, x, sample)
            inner, outer = _as_weights(densities, inner, outer, free_bits)
    value = tf.reduce_mean(bounds.bound(densities, inner, outer))
    return tape, Objective(value, method, sample, densities, inner, outer, recorded, kept)


def _as_weights(
    densities: LogDensities, inner: float | tf.Tensor, outer: float | tf.Tensor, free: FreeBits
) -> tuple[tf.Tensor, tf.Tensor]:
    dtype = densities.log_q_z.dtype
    return free.weights(densities, bounds.as_weight(inner, dtype), bounds.as_weight(outer, dtype))


Estimator = Callable[[tf.GradientTape, Objective, ParameterGroups], ParameterGroups]


def reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """The plain pathwise gradient of the bound, for every group."""
    return ParameterGroups(*_gradient(tape, objective, tuple(map(list, variables))))


def dreg(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Doubly reparameterized for eta, reparameterized for the others.

    Sobolev & Vetrov 2019, equation 9, generalised to warm-ups. For k >= 1 the gradient
    at psi_k is rescaled by `bounds.tau_path_factor` on its way to eta and the direct
    dependence of log tau(psi_k) on eta is dropped; psi_0, which tau did not draw,
    keeps its direct term. Unbiased.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: what was recorded, of a row that trains a tau.
        variables: the parameter groups.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=True)


def dreg_biased(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """`dreg` without the term of psi_0: for study only, since it is biased.

    Sobolev & Vetrov 2019, appendix D.2, where its signal-to-noise ratio grows with K.
    """
    return _autodiff_but_for_eta(tape, objective, variables, with_psi_0=False)


def sticking_the_landing(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """The path alone for phi (Roeder et al. 2017), reparameterized for the others.

    The dropped direct term has mean zero for M=1 without an inner warm-up, for explicit and
    hierarchical q alike; else the estimator is biased.
    """
    theta, eta, rho = _gradient(
        tape, objective, (list(variables.theta), list(variables.eta), list(variables.rho))
    )
    phi = _phi_path(tape, objective, variables.phi, doubly=False)
    return ParameterGroups(theta, phi, eta, rho)


def doubly_reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Doubly reparameterized for phi, eta and rho alike; unbiased.

    For an explicit q this is the DReG estimator of Tucker et al. 2019. For a hierarchical
    one the direct terms of phi are first gathered at psi_0 (`bounds.swap_ratios`).

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: what was recorded, of a row whose psi are not shared.
        variables: the parameter groups.
    """
    sample, densities = objective.sample, objective.densities
    theta, eta, rho = (list(g) for g in (variables.theta, variables.eta, variables.rho))
    phi = _phi_path(tape, objective, variables.phi, doubly=True)
    if eta:
        theta_ascent, at_psi = _gradient(tape, objective, (theta, sample.psi))
        eta = _eta_path(tape, objective, eta, at_psi, with_psi_0=True)
    else:
        theta_ascent = _gradient(tape, objective, theta)
    if rho:
        factor = bounds.rho_path_factor(densities, objective.inner, objective.outer)
        at_zeta = factor[..., tf.newaxis] * _gradient(tape, objective, sample.zeta)
        rho = tape.gradient(sample.zeta, rho, output_gradients=at_zeta)
    return ParameterGroups(theta_ascent, phi, eta, rho)


ESTIMATORS: dict[str, Estimator] = {
    "reparameterized": reparameterized,
    "stl": sticking_the_landing,
    "iwae-dreg": doubly_reparameterized,  # what it amounts to for an explicit q
    "dreg": dreg,
    "dreg-biased": dreg_biased,
    "gdreg": doubly_reparameterized,
}
# These follow the derivative of an explicit log q(z|x) at z. A distribution may compute the
# density of its own draws from their noise, which has none.
AT_Z = ("stl", "iwae-dreg")


def _gradient(tape: tf.GradientTape, objective: Objective, sources: Any) -> Any:
    """The gradient of the value, or an unbiased estimate of it from the terms kept."""
    return tape.gradient(list(objective.recorded), sources, output_gradients=list(objective.ascent))


def _autodiff_but_for_eta(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups, with_psi_0: bool
) -> ParameterGroups:
    groups = (list(variables.theta), list(variables.phi), list(variables.rho))
    theta, phi, rho, at_psi = _gradient(tape, objective, (*groups, objective.sample.psi))
    eta = _eta_path(tape, objective, list(variables.eta), at_psi, with_psi_0)
    return ParameterGroups(theta, phi, eta, rho)


def _eta_path(
    tape: tf.GradientTape, objective: Objective, eta: list, at_psi: tf.Tensor, with_psi_0: bool
) -> list:
    """Equation 9, from the value's gradient at psi_1:K."""
    shared = objective.method.shares_psi
    factor = bounds.tau_path_factor(objective.densities, objective.inner, objective.outer, shared)
    if shared:  # each z has a factor of its own, which the gradient at psi has summed over
        scaled = LogDensities(*objective.ascent[:2], *(factor * g for g in objective.ascent[2:]))
        psi = objective.sample.psi
        at_psi = _pull(tape, list(objective.recorded), psi, list(objective.upstream(scaled)))
    else:
        at_psi = factor[1:, ..., tf.newaxis] * at_psi
    targets, upstream = [objective.sample.psi], [at_psi]
    if with_psi_0:
        at_log_tau = objective.ascent.log_tau
        targets.append(objective.recorded.log_tau)
        upstream.append(tf.concat([at_log_tau[:1], tf.zeros_like(at_log_tau[1:])], axis=0))
    return tape.gradient(targets, eta, output_gradients=upstream)


def _phi_path(
    tape: tf.GradientTape, objective: Objective, phi: Sequence[Any], doubly: bool
) -> list:
    """The gradient through the draws of z, psi_0 and, where q drew them, psi_1:K.

    Doubly reparameterized, the path also carries the derivative of -c_out w_m r_m in place
    of the direct terms -c_out w_m r_m d log q(z_m,psi_m0) (see `bounds.swap_ratios`): through
    z_m for log q(z|psi_0), and times its warm-up through psi_m0 for log q(psi_0).
    """
    method, sample, densities = objective.method, objective.sample, objective.densities
    inner, outer = objective.inner, objective.outer
    with tf.GradientTape(persistent=True) as arrays:
        arrays.watch(densities)
        value = tf.reduce_mean(bounds.bound(densities, inner, outer))
        # The score of draw m is traded for derivatives at draw m alone, others held fixed.
        alpha = bounds.outer_log_weights(densities, inner, outer)
        w = tf.stop_gradient(bounds.normalized_weights(alpha))
        r = bounds.swap_ratios(densities, inner)
        own = w * (1.0 - w) * tf.stop_gradient(r) * alpha + w * r
        score = -outer * tf.reduce_mean(tf.reduce_sum(own, axis=0))
    of_value = arrays.gradient(value, densities)
    of_score = arrays.gradient(score, densities)

    def through(source: tf.Tensor, share_of_score: tf.Tensor | float) -> tf.Tensor:
        share = share_of_score if doubly else 0.0
        at_densities = (v + share * s for v, s in zip(of_value, of_score, strict=True))
        upstream = objective.upstream(LogDensities(*at_densities))
        return _pull(tape, list(objective.recorded), source, list(upstream))

    at_z = through(sample.z, 1.0)
    if sample.psi_0 is None:
        return tape.gradient(sample.z, list(phi), output_gradients=at_z)
    # What reaches psi_0 by way of z is in at_z already.
    by_z = _pull(tape, sample.z, sample.psi_0, at_z)
    mixing = method.inverse == "mixing"
    targets = [sample.z, sample.psi_0]
    upstream = [at_z, through(sample.psi_0, 0.0 if mixing else inner) - by_z]
    if mixing:
        targets.append(sample.psi)
        upstream.append(through(sample.psi, 0.0))
    return tape.gradient(targets, list(phi), output_gradients=upstream)


def _pull(tape: tf.GradientTape, targets: Any, source: tf.Tensor, upstream: Any) -> tf.Tensor:
    """The gradient at a draw; 0 where q(z|psi) ignores psi."""
    zero = tf.UnconnectedGradients.ZERO
    return tape.gradient(targets, source, output_gradients=upstream, unconnected_gradients=zero)
