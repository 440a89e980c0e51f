"""Checks of the arguments of the public functions."""

import keras
import tensorflow as tf

from hvi_tf import arguments
from hvi_tf.arguments import shown
from hvi_tf.inference import methods, objective, priors
from hvi_tf.inference.methods import METHODS, MIXTURE_SIZE, Counts, Method, Warmup
from hvi_tf.inference.model import Model, ParameterGroups


def observations(x: object) -> tf.Tensor:
    """Returns observations as a tensor `[B, ...]`, B >= 1.

    Args:
        x: a tensor, an array or nested lists of numbers.

    Raises:
        ValueError: if `x` is not an array of numbers, or has no axis B or no axis after it.
    """
    try:
        tensor = tf.convert_to_tensor(x)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"x: a {type(x).__name__} that is not an array of numbers ({error})"
        ) from error
    shape = tensor.shape
    if shape.rank is None or shape.rank < 2 or shape[0] == 0:
        raise ValueError(f"x: shape {shape}, wanted (B, ...), one row per observation")
    return tensor


def is_eager(name: str) -> None:
    """Checks that the call is not inside a tf.function, where tensors have no values.

    Args:
        name: the name of the public function, for the message.

    Raises:
        RuntimeError: inside a tf.function.
    """
    if not tf.executing_eagerly():
        raise RuntimeError(f"{name}: called inside a tf.function; call it outside")


def can_run(name: str) -> None:
    """Checks that a function that masks by -inf can run and return values.

    Args:
        name: the name of the public function, for the message.

    Raises:
        RuntimeError: inside a tf.function, or under `tf.debugging.enable_check_numerics`.
    """
    is_eager(name)
    try:
        tf.math.log(tf.zeros([]))
    except tf.errors.InvalidArgumentError as error:
        raise RuntimeError(
            f"{name}: tf.debugging.enable_check_numerics refuses the -inf that masks draws; call "
            "tf.debugging.disable_check_numerics() first"
        ) from error


def flat_variables(variables: ParameterGroups) -> list:
    """Returns the variables of all groups in one list.

    Args:
        variables: the parameter groups.

    Raises:
        TypeError: if the groups are not lists of variables.
        ValueError: if a variable is listed twice, is not trainable or not floating, or if no
            variable is listed.
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
            tf_variable = variable.value if isinstance(variable, keras.Variable) else variable
            if not (tf_variable.dtype.is_floating and tf_variable.trainable):
                raise ValueError(
                    f"variables: {place} ({variable.name}, {tf_variable.dtype.name}) must be "
                    "trainable and of a floating dtype"
                )
            if id(tf_variable) in flat:
                raise ValueError(f"variables: {place} is {flat[id(tf_variable)]}; list it once")
            flat[id(tf_variable)] = place
    if not flat:
        raise ValueError("variables: no group holds a variable; there is nothing to fit")
    return [v for group in variables for v in group]


def method_of(bound: str, defensive: float, mixture_size: int = MIXTURE_SIZE) -> Method:
    """Returns the method of a bound, for a model without local parameters.

    Args:
        bound: a key of `METHODS`.
        defensive: the share of q(psi|x) in a mixture of tau's, from 0 to below 1.
        mixture_size: the largest number of z that share a mixture, 0 for all.

    Raises:
        ValueError: if there is no such bound, the bound refines local parameters, or an option
            of a mixture is given for a bound without a mixture.
    """
    share = arguments.number("defensive", defensive, "from 0 to below 1", lambda s: 0 <= s < 1)
    size = arguments.count("mixture_size", mixture_size, lowest=0)
    method = methods.look_up(bound, defensive=share, mixture_size=size)
    if method.refines:
        raise ValueError(
            f"bound={bound!r}: refines local parameters, which a Model does not have; see "
            "hvi.refined_evidence and hvi.svi"
        )
    for name, value, default in (("defensive", share, 0.0), ("mixture_size", size, MIXTURE_SIZE)):
        if value != default and not method.mixes:
            raise ValueError(
                f"{name}={value}: bound={bound!r} has no mixture; only diwhvi-mixture takes it"
            )
    return method


def counts(method: Method, model: object, **requested: int | None) -> Counts:
    """Returns the counts, with the method's default for each None.

    Args:
        method: the method.
        model: the callables.
        **requested: K, M and L, as for `Method.counts`.

    Raises:
        TypeError: if `model` is not a Model.
        ValueError: if a count is not a whole number, is too small, or the method fixes another.
    """
    if not isinstance(model, Model):
        raise TypeError(f"model={shown(model)}: must be an hvi.Model")
    checked = {
        name: None if value is None else arguments.count(name, value, lowest=int(name != "K"))
        for name, value in requested.items()
    }
    return method.counts(priors.adapt(model.prior).hierarchical, **checked)


def warmup(inner: float | tf.Tensor, outer: float | tf.Tensor) -> Warmup:
    """Returns the warm-up weights. Tensors without a static value are not checked.

    Args:
        inner: c_in in [0, 1].
        outer: c_out in [0, 1].

    Raises:
        ValueError: if a weight is not from 0 to 1.
    """
    for name, weight in (("inner", inner), ("outer", outer)):
        if tf.get_static_value(weight) is not None or not tf.is_tensor(weight):
            arguments.number(name, weight, "from 0 to 1", lambda c: 0 <= c <= 1)
    return Warmup(inner, outer)


def backward_samples(method: Method, value: int, counts: Counts) -> int:
    """Returns S, the number of terms over k and over m that are differentiated.

    Args:
        method: the method.
        value: S. 0 takes all terms.
        counts: numbers of draws.

    Raises:
        ValueError: if the method has no sum to subsample, or if S is not a whole number or not
            below the number of terms.
    """
    count = arguments.count("backward_samples", value, lowest=0)
    if count and not method.takes_backward_samples:
        others = ", ".join(name for name, other in METHODS.items() if other.takes_backward_samples)
        raise ValueError(
            f"backward_samples={count}: bound={method.name!r} has no sum over k or m that could "
            f"leave out terms; only {others} take it"
        )
    terms = objective.number_of_terms(method, counts)
    if count >= terms > 0:
        raise ValueError(
            f"backward_samples={count}: must be below {terms}, the number of terms; 0 takes all"
        )
    return count


def model_variables(variables: ParameterGroups) -> list:
    """Returns the variables of all groups for a model without an SVI loop.

    Args:
        variables: the parameter groups, without pi.

    Raises:
        TypeError: for the reasons of `flat_variables`.
        ValueError: for the reasons of `flat_variables`, or if there are variables of pi, since
            there is no buffer of proposals.
    """
    flat = flat_variables(variables)
    if variables.pi:
        raise ValueError("variables: pi weighs the proposals of an SVI loop; leave it empty")
    return flat


def is_method(method: object) -> None:
    """Checks that an argument is a `Method`.

    Args:
        method: the argument.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(method, Method):
        raise TypeError(f"method={shown(method)}: must be a method such as METHODS['iwhvi']")
