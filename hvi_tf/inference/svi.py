"""Stochastic variational inference for each observation, and the bound over its buffer.

Shu, Bui, Whang & Ermon 2019, with local parameters lambda of q_lambda(z|x):

    lambda_0 = encoder(x)
    z_i ~ q_lambda_i,  w_i = p(x,z_i) / q_lambda_i(z_i)          i = 0..k
    lambda_i+1 = lambda_i + a step of momentum SGD on the ELBO   i < k
    bound = log sum_i pi_i w_i                                   (theorem 1, v(i) = {0..i-1})

z_i is drawn from the very density that it is divided by: lambda_i depends on earlier draws
only. So each w_i has mean p(x) given those, and Jensen's inequality does the rest.

Around a hierarchical q_lambda(z|x) = int q_lambda(z|psi,x) q(psi|x) dpsi the density in w_i
is not known, and exp(-U_K) takes the place of 1/q. Given lambda_i it is unbiased for 1/q
(theorem A.1 of Sobolev & Vetrov 2019 is Jensen's inequality on just that): psi_0 generated
z_i, and psi_1:K are drawn from tau anew at every i. Each w_i keeps the mean p(x), whatever
tau is, so the sum is still unbiased and the bound still a lower bound; it is looser by how
far tau is from q(psi|z,x).

Everything is per observation: given its noise, no gradient, norm or step of one row of a
batch sees another row.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf import arguments, bounds, randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.inference import gradients, sampling
from hvi_tf.inference.gradients import ParameterGroups
from hvi_tf.inference.methods import Method
from hvi_tf.inference.sampling import LatentSample, Model


class LocalModel(NamedTuple):
    """A model whose proposal has local parameters lambda, one row per observation.

    Attributes:
        start: lambda_0 `[B, P]`, unconstrained.
        at: lambda `[B, P]` -> the model with the proposal q_lambda. Called at every step:
            what does not depend on lambda is best computed once, outside.
    """

    start: tf.Tensor
    at: Callable[[tf.Tensor], Model]


Localize = Callable[[tf.Tensor], LocalModel]  # x [B, ...] -> the local model of these rows


class SVI(NamedTuple):
    """The inner loop. Learning rate and clipping act on the ELBO of a single observation.

    Attributes:
        steps: k >= 1; the trajectory has k+1 proposals.
        learning_rate: of lambda.
        momentum: in [0, 1).
        clip_norm: largest norm of an observation's gradient; 0 does not clip.
        double_sampling: whether a draw of its own drives each step, so that the buffer's
            draws are independent given the trajectory. Theorem 2 needs that.
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

    def checked(self) -> "SVI":
        """Returns the settings as Python numbers.

        Raises:
            ValueError: if one is no number, or out of range.
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
    """A draw from one proposal, or from all of them along a first axis i `[k+1, ...]`."""

    z: tf.Tensor  # [B, Dz]
    zeta: tf.Tensor | None  # [L, B, Dzeta]; None if the prior is explicit
    log_likelihood: tf.Tensor  # [B]     log p(x|z)
    log_ratio: tf.Tensor  # [B]          log p(z) - log q_lambda(z|x), or P - U_K

    def log_weight(self, kl_weight: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Log w; with a KL weight below 1 no weight of any bound."""
        return self.log_likelihood + bounds.warmed_up(self.log_ratio, kl_weight)


class Refined(NamedTuple):
    """A trajectory.

    Attributes:
        points: the buffer, `[k+1, ...]`.
        local: lambda_k `[B, P]`.
        first_ascent: the gradients of the first step for the variables of `refine`.
    """

    points: Point
    local: tf.Tensor
    first_ascent: ParameterGroups


def refine(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    kl_weight: float | tf.Tensor = 1.0,
    variables: ParameterGroups | None = None,
    estimator: str = "reparameterized",
) -> Refined:
    """Runs the inner loop and keeps every proposal's draw.

    Args:
        localize: the model.
        row: of the method table; says whether the proposal is hierarchical.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`; the trajectory is a pure function of it.
        kl_weight: of log p(z) - log q(z) in the ELBO that is climbed.
        variables: phi, eta and rho, which are given the gradients of the first step's ELBO:
            it is climbed from the encoder's own output, and its draw serves both.
        estimator: of these gradients (`gradients.ESTIMATORS`).
    """
    settings = settings.checked()
    local = localize(x)
    shift = tf.zeros_like(local.start)

    def at_start() -> Model:
        fresh = localize(x)  # under the tape, for phi
        return fresh.at(fresh.start + shift)

    loop = _Loop(local, row, x, settings, kl_weight)
    ascent = loop.climb(at_start, shift, tf.random.fold_in(seed, 0), variables, estimator)
    first = loop.step(local.start, shift, tf.random.fold_in(seed, 0), ascent)

    def begin(point: Point) -> tuple:
        return tuple(
            tf.TensorArray(part.dtype, size=settings.steps + 1, element_shape=part.shape)
            for part in point
            if part is not None
        )

    def see(arrays: tuple, i: tf.Tensor, point: Point) -> tuple:
        parts = [part for part in point if part is not None]
        return tuple(a.write(i, part) for a, part in zip(arrays, parts, strict=True))

    lam, arrays = _follow(loop, first, seed, begin, see)
    stacked = [array.stack() for array in arrays]
    if first.point.zeta is None:
        stacked.insert(1, None)
    return Refined(Point(*stacked), lam, ascent.of_variables)


def follow(
    localize: Localize,
    row: Method,
    x: tf.Tensor,
    settings: SVI,
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    see: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    """The loop of `refine`, which keeps nothing but what `see` makes of each point.

    Args:
        localize: the model.
        row: of the method table.
        x: observations `[B, ...]`.
        settings: of the loop.
        seed: int32 `[2]`.
        begin: (point 0, for shapes) -> state; of tensors.
        see: (state, i, point i) -> state.

    Returns:
        lambda_k `[B, P]` and the last state. Memory does not grow with the steps.
    """
    settings = settings.checked()
    local = localize(x)
    loop = _Loop(local, row, x, settings, 1.0)
    first = loop.step(local.start, tf.zeros_like(local.start), tf.random.fold_in(seed, 0))
    return _follow(loop, first, seed, begin, see)


def draw_point(model: Model, row: Method, x: tf.Tensor, settings: SVI, seed: tf.Tensor) -> Point:
    """A draw from the model's proposal, with the counts of `settings`."""
    sample = sampling.draw(model, row, x, K=settings.K, M=1, L=settings.L, seed=seed)
    return as_point(sample, sampling.log_densities(model, row, x, sample))


def as_point(sample: LatentSample, densities: LogDensities) -> Point:
    """A draw with M=1 as a point of the trajectory."""
    log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(densities))
    log_p = bounds.log_mean_exp(densities.log_prior)
    zeta = None if sample.zeta is None else sample.zeta[:, 0]
    return Point(sample.z[0], zeta, densities.log_likelihood[0], (log_p - log_q)[0])


class _Ascent(NamedTuple):
    """One draw at a lambda and what it says."""

    point: Point
    of_local: tf.Tensor  # [B, P], the gradient of each observation's ELBO for lambda
    of_variables: ParameterGroups


class _Step(NamedTuple):
    local: tf.Tensor  # the next lambda
    velocity: tf.Tensor
    point: Point  # of the buffer, at the lambda before


class _Loop:
    """One step of SVI, and one draw, of a given model and batch."""

    def __init__(
        self,
        local: LocalModel,
        row: Method,
        x: tf.Tensor,
        settings: SVI,
        kl_weight: float | tf.Tensor,
    ) -> None:
        self.local, self.row, self.x = local, row, x
        self.settings, self.kl_weight = settings, kl_weight

    def draw(self, lam: tf.Tensor, seed: tf.Tensor) -> Point:
        """A draw from q_lambda."""
        return draw_point(self.local.at(lam), self.row, self.x, self.settings, seed)

    def climb(
        self,
        make: Callable[[], Model],
        lam: tf.Tensor,
        seed: tf.Tensor,
        variables: ParameterGroups | None = None,
        estimator: str = "reparameterized",
    ) -> _Ascent:
        """The ELBO's gradient for lambda, in theta's place, of each observation.

        Args:
            make: makes the model at `lam`.
            lam: `[B, P]`.
            seed: int32 `[2]`.
            variables: phi, eta and rho, to have their gradients of the same draw.
            estimator: of these.
        """
        settings, variables = self.settings, variables or ParameterGroups()
        objective, ascent = gradients.value_and_gradients(
            _deferred(self.local.at(self.local.start), make),
            self.row,
            self.x,
            variables._replace(theta=[lam]),
            K=settings.K,
            M=1,
            L=settings.L,
            seed=seed,
            estimator=estimator,
            outer=self.kl_weight,
        )
        if ascent.theta[0] is None:
            raise ValueError(
                "localize: no gradient reaches lambda; the proposal has to depend on it"
            )
        # Of the sum over the batch and not of its mean, which would make the step of an
        # observation depend on how many others there are.
        batch = tf.cast(tf.shape(lam)[0], lam.dtype)
        point = as_point(objective.sample, objective.densities)
        return _Ascent(point, batch * ascent.theta[0], ascent._replace(theta=()))

    def step(
        self, lam: tf.Tensor, velocity: tf.Tensor, seed: tf.Tensor, ascent: _Ascent | None = None
    ) -> _Step:
        """Momentum SGD with each row's gradient clipped by its own norm.

        Args:
            lam: `[B, P]`.
            velocity: `[B, P]`.
            seed: int32 `[2]`.
            ascent: of this lambda and seed, where it is known already.
        """
        settings = self.settings
        if ascent is None:
            ascent = self.climb(lambda: self.local.at(lam), lam, seed)
        gradient, point = ascent.of_local, ascent.point
        if settings.clip_norm:
            gradient = _clip(gradient, settings.clip_norm)
        if settings.double_sampling:
            point = self.draw(
                lam, randomness.substream(seed, randomness.RefinementStepStream.SECOND_DRAW)
            )
        velocity = settings.momentum * velocity + gradient
        return _Step(lam + settings.learning_rate * velocity, velocity, point)


def _clip(gradient: tf.Tensor, largest: float) -> tf.Tensor:
    """Each row `[B, P]` at a norm of at most `largest`.

    Unlike by `tf.clip_by_norm`, squares never overflow: there, gradients from 1e19 on are
    clipped to 0, and a bound of 1e38 makes others infinite.
    """
    unit = tf.maximum(tf.reduce_max(tf.abs(gradient), axis=-1, keepdims=True), largest)
    norm = unit * tf.norm(gradient / unit, axis=-1, keepdims=True)
    return gradient / tf.maximum(norm / largest, 1.0)


def _deferred(model: Model, make: Callable[[], Model]) -> Model:
    """The model, its proposal made by `make` where it is first used: under the tape."""
    made: list[Model] = []

    def proposal() -> Model:
        if not made:
            made.append(make())
        return made[0]

    return model._replace(
        conditional=lambda psi, x: proposal().conditional(psi, x),
        mixing=lambda x: proposal().mixing(x),
        tau=lambda z, x: proposal().tau(z, x),
    )


def _follow(
    loop: _Loop,
    first: _Step,
    seed: tf.Tensor,
    begin: Callable[[Point], tuple],
    see: Callable[[tuple, tf.Tensor, Point], tuple],
) -> tuple[tf.Tensor, tuple]:
    steps = loop.settings.steps
    lam, velocity, point = first
    state = see(begin(point), tf.constant(0), point)
    for i in tf.range(1, steps):
        lam, velocity, point = loop.step(lam, velocity, tf.random.fold_in(seed, i))
        state = see(state, i, point)
    last = loop.draw(lam, tf.random.fold_in(seed, steps))
    return lam, see(state, tf.constant(steps), last)
