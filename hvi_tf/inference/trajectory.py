"""Settings of an inner SVI loop and the points of its trajectory."""

import math
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import arguments, bounds
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.model import LatentSample, Model


class SVI(NamedTuple):
    """Settings of the inner loop, for the ELBO of a single observation.

    Attributes:
        steps: k >= 1, the number of steps. The trajectory has k+1 proposals.
        learning_rate: the step size of lambda, >= 0.
        momentum: the momentum of lambda, in [0, 1).
        clip_norm: the largest norm of an observation's gradient. 0 does not clip.
        double_sampling: whether each step uses a separate draw. Then the draws of the buffer
            are independent given the trajectory, as theorem 2 of Shu et al. 2019 requires.
        K: draws of psi besides psi_0 at every step, for a hierarchical proposal.
        L: draws of zeta at every step, for a hierarchical prior.
    """

    steps: int
    learning_rate: float
    momentum: float = 0.5
    clip_norm: float = 1.0
    double_sampling: bool = False
    K: int = 0
    L: int = 1

    @property
    def counts(self) -> Counts:
        """The numbers of draws of one step, with M=1."""
        return Counts(K=self.K, L=self.L)

    def checked(self) -> "SVI":
        """Returns the settings as Python numbers.

        Raises:
            ValueError: if a setting is not a number or is out of range.
        """
        finite = "finite and at least 0", lambda number: 0 <= number < math.inf
        momentum = "at least 0 and below 1", lambda number: 0 <= number < 1
        return self._replace(
            steps=arguments.count("steps", self.steps, lowest=1),
            learning_rate=arguments.number("learning_rate", self.learning_rate, *finite),
            momentum=arguments.number("momentum", self.momentum, *momentum),
            clip_norm=arguments.number("clip_norm", self.clip_norm, *finite),
            K=arguments.count("K", self.K, lowest=0),
            L=arguments.count("L", self.L, lowest=1),
        )


class Point(NamedTuple):
    """A draw from one proposal, or from all proposals with a first axis i of length k+1.

    Attributes:
        z: `[B, Dz]`.
        zeta: `[L, B, Dzeta]`. None if the prior is explicit.
        log_likelihood: log p(x|z), `[B]`, nats.
        log_ratio: log p(z) - log q_lambda(z|x), or P - U_K, `[B]`, nats.
    """

    z: tf.Tensor
    zeta: tf.Tensor | None
    log_likelihood: tf.Tensor
    log_ratio: tf.Tensor

    def log_weight(self, kl_weight: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Returns log w = log p(x|z) + c (log p(z) - log q_lambda(z|x)).

        Args:
            kl_weight: c in [0, 1]. Below 1 the result is not a weight of a bound.

        Returns:
            `[...]`, nats.
        """
        return self.log_likelihood + bounds.warmed_up(self.log_ratio, kl_weight)


def draw_point(model: Model, method: Method, x: tf.Tensor, settings: SVI, seed: tf.Tensor) -> Point:
    """Draws one point from the proposal of a model.

    Args:
        model: the model at one lambda.
        method: decides whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: the settings of the loop, with the numbers of draws.
        seed: int32 `[2]`. The draw is a pure function of it.
    """
    sample = sampling.draw(model, method, x, settings.counts, seed)
    return as_point(sample, densities_lib.log_densities(model, method, x, sample))


def as_point(sample: LatentSample, densities: LogDensities) -> Point:
    """Returns a draw with M=1 as a point of the trajectory.

    Args:
        sample: the draw.
        densities: its log-densities.
    """
    log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(densities))
    log_p = bounds.log_mean_exp(densities.log_prior)
    zeta = None if sample.zeta is None else sample.zeta[:, 0]
    return Point(sample.z[0], zeta, densities.log_likelihood[0], (log_p - log_q)[0])
