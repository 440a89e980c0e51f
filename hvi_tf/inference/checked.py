"""Draws and gradients with checked arguments, for the user's own training loop."""

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
    """Draws once and returns the mean of a bound over the batch with its gradients.

    The bound is `bounds.bound`. The arguments are checked like those of `fit`. A model is
    checked on its first use.

    Args:
        model: the callables, or a function that makes them for x.
        method: a method, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        variables: tf.Variables or Keras variables, grouped by the density that they belong to.
        K: draws of psi for each z besides psi_0, >= 0.
        M: draws of z, >= 1.
        L: draws of zeta for each z, >= 1.
        seed: int32 `[2]`. The draw is a pure function of it.
        estimator: one of the method's `gradients`.
        inner: the warm-up c_in in [0, 1]. Below 1 the objective is not a bound.
        outer: the warm-up c_out in [0, 1]. Below 1 the objective is not a bound.
        backward_samples: S, the number of terms over m, and over k besides psi_0, that are
            differentiated. They are drawn by their weights, which does not change the mean of
            an estimator. 0 takes all terms.

    Returns:
        The objective, whose value is in nats, and the ascent direction of each group. The
        direction is None for a variable that no gradient reaches.

    Raises:
        ValueError: for the reasons of `fit`.
        TypeError: for the reasons of `fit`.
    """
    validation.is_method(method)
    seed = arguments.stateless_seed(seed)
    x = validation.observations(x)
    model_for_x = prepared(model, x)
    counts = validation.counts(method, model_for_x, K=K, M=M, L=L)
    backward_samples = validation.backward_samples(method, backward_samples, counts)
    warmup = validation.warmup(inner, outer)
    method.check_gradient(estimator, "estimator")
    validation.model_variables(variables)
    _check_once(model, model_for_x, method, x, estimator)
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


# The models that were checked last, with the arguments that a check depends on.
_CHECKED: collections.deque = collections.deque(maxlen=16)


def _check_once(
    model: Model | Prepare,
    model_for_x: Model,
    method: Method,
    x: tf.Tensor,
    estimator: str,
) -> None:
    """Checks the model unless one of the last calls checked it for the same arguments."""
    purpose = (method, x.shape.as_list(), x.dtype, estimator)
    if any(other is model and checked == purpose for other, checked in _CHECKED):
        return
    model_checks.check_model(model_for_x, method, x, estimator)
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
    """Draws every latent variable once, by `sampling.draw`.

    Args:
        model: the callables, or a function that makes them for x.
        method: a method, such as `METHODS["iwhvi"]`.
        x: observations `[B, ...]`.
        K: draws of psi for each z besides psi_0, >= 0. It is ignored for an explicit proposal.
        M: draws of z, >= 1.
        L: draws of zeta for each z, >= 1. It is ignored for an explicit prior and where zeta is
            psi_0.
        seed: int32 `[2]`. The draw is a pure function of it.

    Returns:
        The draw, reparameterized wherever the distributions are.

    Raises:
        ValueError: if a count or the seed is out of range.
        TypeError: if `model` is not a Model or `method` is not a Method.
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
