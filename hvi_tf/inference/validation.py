"""Checks of the arguments of the public functions."""

from typing import Any

import keras
import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.arguments import shown
from hvi_tf.inference import methods, objective, priors
from hvi_tf.inference.methods import METHODS, MIXTURE_SIZE, Counts, Method, Warmup
from hvi_tf.inference.model import Model, ParameterGroups


def observations(x: Any) -> tf.Tensor:
    """Returns `x` as a tensor `[B, ...]`, B >= 1.

    Raises:
        ValueError: if it is no array, or has no row per observation.
    """
    try:
        tensor = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x: a {type(x).__name__} that is no array of numbers ({error})"
        ) from error
    shape = tensor.shape
    if shape.rank is None or shape.rank < 2 or shape[0] == 0:
        raise ValueError(f"x: shape {shape}, wanted (B, ...), one row per observation")
    return tensor


def is_eager(name: str) -> None:
    """Raises RuntimeError inside a tf.function, where there are no values to return."""
    if not tf.executing_eagerly():
        raise RuntimeError(f"{name}: called inside a tf.function; call it outside")


def can_run(name: str) -> None:
    """Raises RuntimeError where a function that masks by -inf cannot run and return values."""
    is_eager(name)
    try:
        tf.math.log(tf.zeros([]))
    except tf.errors.InvalidArgumentError as error:
        raise RuntimeError(
            f"{name}: tf.debugging.enable_check_numerics refuses the -inf that masks draws; call "
            "tf.debugging.disable_check_numerics() first"
        ) from error


def flat_variables(variables: ParameterGroups) -> list:
    """Returns the variables of all groups.

    Raises:
        TypeError: unless the groups are lists of variables.
        ValueError: if a variable is listed twice, or there is none.
    """
    if not isinstance(variables, ParameterGroups):
        raise TypeError(f"variables={shown(variables)}: must be hvi.ParameterGroups of lists")
    flat: dict[int, str] = {}
    for name, group in zip(ParameterGroups._fields, variables, strict=True):
        if not isinstance(group, list | tuple):
            raise TypeError(f"variables: {name} is no list in hvi.ParameterGroups({name}=[...])")
        for i, variable in enumerate(group):
            place = f"{name}[{i}]"
            if not isinstance(variable, tf.Variable | keras.Variable):
                raise TypeError(
                    f"variables: {place} is a {type(variable).__name__}, wanted a tf.Variable or "
                    "a keras.Variable; pass a layer's trainable_variables"
                )
            held = variable.value if isinstance(variable, keras.Variable) else variable
            if not (held.dtype.is_floating and held.trainable):
                raise ValueError(
                    f"variables: {place} ({variable.name}, {held.dtype.name}) must be trainable "
                    "and of a floating dtype"
                )
            if id(held) in flat:
                raise ValueError(f"variables: {place} is {flat[id(held)]}; list it once")
            flat[id(held)] = place
    if not flat:
        raise ValueError("variables: no group holds a variable; there is nothing to fit")
    return [v for group in variables for v in group]


def method_of(bound: Any, defensive: Any, mixture_size: Any = MIXTURE_SIZE) -> Method:
    """Returns the method that a bound names, for a model without local parameters.

    Raises:
        ValueError: if there is no such bound, it refines local parameters, or an option of a
            mixture is given for a bound that has none.
    """
    share = arguments.number("defensive", defensive, "from 0 to below 1", lambda s: 0 <= s < 1)
    size = arguments.count("mixture_size", mixture_size, lowest=0)
    method = methods.look_up(bound, defensive=share, mixture_size=size)
    if method.refines:
        raise ValueError(
            f"bound={bound!r}: refines local parameters, which a Model does not name; see "
            "hvi.refined_evidence and hvi.svi"
        )
    for name, value, default in (("defensive", share, 0.0), ("mixture_size", size, MIXTURE_SIZE)):
        if value != default and not method.mixes:
            raise ValueError(
                f"{name}={value}: bound={bound!r} has no mixture; it is for diwhvi-mixture"
            )
    return method


def counts(method: Method, model: Any, **given: Any) -> Counts:
    """Returns the counts, with the method's defaults where None is given.

    Raises:
        TypeError: if `model` is no Model.
        ValueError: as `Method.counts`.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model={shown(model)}: must be an hvi.Model")
    return method.counts(priors.adapt(model.prior).hierarchical, **given)


def warmup(inner: Any, outer: Any) -> Warmup:
    """Returns the warm-up weights; tensors whose value is not static are not checked.

    Raises:
        ValueError: if a weight is not from 0 to 1.
    """
    for name, weight in (("inner", inner), ("outer", outer)):
        if tf.get_static_value(weight) is not None or not tf.is_tensor(weight):
            arguments.number(name, weight, "from 0 to 1", lambda c: 0 <= c <= 1)
    return Warmup(inner, outer)


def backward_samples(method: Method, value: Any, counts: Counts) -> int:
    """Returns S, below the number of terms over k or m.

    Raises:
        ValueError: for a method with a single term, or if S is no whole number or too large.
    """
    count = arguments.count("backward_samples", value, lowest=0)
    if count and not method.takes_backward_samples:
        others = ", ".join(name for name, other in METHODS.items() if other.takes_backward_samples)
        raise ValueError(
            f"backward_samples={count}: bound={method.name!r} has no sum over k or m of which "
            f"terms could be left out; it is for {others}"
        )
    terms = objective.number_of_terms(method, counts)
    if count >= terms > 0:
        raise ValueError(
            f"backward_samples={count}: must be below {terms}, the number of terms; 0 takes all"
        )
    return count


def model_variables(variables: ParameterGroups) -> list:
    """Returns `flat_variables` of a model without an SVI loop.

    Raises:
        ValueError: if there are variables of pi: there is no buffer for pi to weigh.
    """
    flat = flat_variables(variables)
    if variables.pi:
        raise ValueError("variables: pi weighs the proposals of an SVI loop; there is none here")
    return flat


def is_method(method: Any) -> None:
    """Raises TypeError unless the value is a row of the table."""
    if not isinstance(method, Method):
        raise TypeError(f"method={shown(method)}: must be a row such as METHODS['iwhvi']")
