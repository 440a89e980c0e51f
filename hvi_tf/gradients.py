"""Gradient estimators: how a bound becomes a gradient for each group of parameters.

An estimator is independent of the bound: it reads the arrays that the bound was
reduced from. All gradients are in the ascent direction.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.sampling import LatentSample


class ParameterGroups(NamedTuple):
    """Trainable variables, or their gradients, by the density they belong to."""

    theta: Sequence[Any]  # the model p(x,z)
    phi: Sequence[Any]  # the proposal q(z,psi|x)
    eta: Sequence[Any]  # its inverse tau(psi|z,x)


class Objective(NamedTuple):
    """A scalar to be maximised and what it was computed from.

    Attributes:
        value: mean of the (possibly warmed-up) bound over the batch, nats.
        sample: the draw.
        densities: the log-densities of the draw.
        inner: warm-up c_in.
        outer: warm-up c_out.
    """

    value: tf.Tensor
    sample: LatentSample
    densities: LogDensities
    inner: tf.Tensor
    outer: tf.Tensor


def reparameterized(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """The plain pathwise gradient of the bound, for every group."""
    return ParameterGroups(*tape.gradient(objective.value, tuple(variables)))


def dreg(
    tape: tf.GradientTape, objective: Objective, variables: ParameterGroups
) -> ParameterGroups:
    """Doubly reparameterized for eta, reparameterized for theta and phi.

    Sobolev & Vetrov 2019, equation 9, generalised to warm-ups. For k >= 1 the gradient
    at psi_k is rescaled by `bounds.dreg_path_factor` on its way to eta and the direct
    dependence of log tau(psi_k) on eta is dropped; psi_0, which tau did not draw,
    keeps its direct term. Unbiased.

    Args:
        tape: a persistent tape that recorded the draw, the densities and the bound.
        objective: what was recorded; `sample.psi` must not be None.
        variables: the parameter groups.
    """
    sample, densities = objective.sample, objective.densities
    theta, phi, at_psi, at_log_tau = tape.gradient(
        objective.value, (variables.theta, variables.phi, sample.psi, densities.log_tau)
    )
    factor = bounds.dreg_path_factor(densities, objective.inner, objective.outer)
    only_psi_0 = tf.concat([at_log_tau[:1], tf.zeros_like(at_log_tau[1:])], axis=0)
    eta = tape.gradient(
        [sample.psi, densities.log_tau],
        variables.eta,
        output_gradients=[factor[..., tf.newaxis] * at_psi, only_psi_0],
    )
    return ParameterGroups(theta, phi, eta)


Estimator = Callable[[tf.GradientTape, Objective, ParameterGroups], ParameterGroups]

ESTIMATORS: dict[str, Estimator] = {"reparameterized": reparameterized, "dreg": dreg}
