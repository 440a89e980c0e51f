"""Draws and gradients for a training loop of one's own, with checked arguments."""

import collections

import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.inference import gradients, model_checks, sampling, validation
from hvi_tf.inference.methods import Counts, Method
from hvi_tf.inference.model import LatentSample, Model, ParameterGroups, Prepare, prepared
from hvi_tf.inference.objective import Objective


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
) -> tuple[Objective, ParameterGroups]:
    """Draws once and returns the objective with its gradient for every group.

    The arguments are checked as those of `fit`; the model once, until another one is passed.

    Args:
        model: the callables, or a function that makes them of x.
        method: a row of the table, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        variables: tf.Variables or Keras variables, by the density they belong to.
        K: draws of psi besides psi_0.
        M: draws of z.
        L: draws of zeta.
        seed: int32 `[2]`.
        estimator: one of the row's `gradients`.
        inner: warm-up c_in in [0, 1]; below 1 the objective is no bound.
        outer: warm-up c_out in [0, 1]; likewise.
        backward_samples: S, the number of terms over k, besides that of psi_0, and over m that
            the gradient is taken of; they are drawn in proportion to their weights, which
            leaves every estimator's mean as it is. 0 takes all.

    Returns:
        The draw and its value, and the ascent direction of each group; None for a variable
        that no gradient reaches.

    Raises:
        ValueError, TypeError: as `fit`.
    """
    validation.is_method(method)
    seed = arguments.stateless_seed(seed)
    x = validation.observations(x)
    made = prepared(model, x)
    counts = validation.counts(method, made, K=K, M=M, L=L)
    backward_samples = validation.backward_samples(method, backward_samples, counts)
    warmup = validation.warmup(inner, outer)
    method.check_gradient(estimator, "estimator")
    validation.model_variables(variables)
    _check_once(model, made, method, x, estimator)
    return gradients.value_and_gradients(
        model,
        method,
        x,
        variables,
        counts,
        seed,
        estimator=estimator,
        warmup=warmup,
        backward_samples=backward_samples,
    )


# The latest models that were checked, with the arguments that a check depends on.
_CHECKED: collections.deque = collections.deque(maxlen=16)


def _check_once(
    model: Model | Prepare,
    made: Model,
    method: Method,
    x: tf.Tensor,
    estimator: str,
) -> None:
    """Checks the model unless one of the last calls checked the same one."""
    purpose = (method, x.shape.as_list(), x.dtype, estimator)
    if any(other is model and known == purpose for other, known in _CHECKED):
        return
    model_checks.check_model(made, method, x, estimator)
    _CHECKED.append((model, purpose))


def draw(
    model: Model | Prepare,
    method: Method,
    x: tf.Tensor,
    *,
    K: int | tf.Tensor,
    M: int | tf.Tensor,
    L: int | tf.Tensor = 1,
    seed: tf.Tensor,
) -> LatentSample:
    """Returns one draw of every latent variable, after checks of the counts and the seed.

    Args:
        model: the callables, or a function that makes them of x.
        method: a row of the table, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        K: draws of psi besides psi_0, >= 0. Ignored for an explicit proposal.
        M: draws of z, >= 1.
        L: draws of zeta, >= 1. Ignored for an explicit prior and where zeta is psi_0.
        seed: int32 `[2]`; the draw is a pure function of it.

    Raises:
        ValueError: for a count or a seed out of range.
        TypeError: if `model` or `method` is of another type.
    """
    validation.is_method(method)
    x = validation.observations(x)
    model = prepared(model, x) if callable(model) else model
    if not isinstance(model, Model):
        raise TypeError(f"model={arguments.shown(model)}: must be an hvi.Model")
    counts = Counts(
        K=arguments.count_or_tensor("K", K, lowest=0),
        M=arguments.count_or_tensor("M", M, lowest=1),
        L=arguments.count_or_tensor("L", L, lowest=1),
    )
    return sampling.draw(model, method, x, counts, arguments.stateless_seed(seed))
