"""Checks of counts, numbers and seeds, with one rule for every public function."""

import numbers
import operator
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

# TensorFlow's shapes and seeds are int32.
MAX_COUNT = 2**31 - 1


def count(name: str, value: Any, lowest: int, highest: int = MAX_COUNT) -> int:
    """Returns a whole number of any integer type as an int.

    Args:
        name: name of the argument, for the message.
        value: an int, a NumPy integer, or an integer scalar tensor with a static value.
        lowest: smallest value allowed.
        highest: largest value allowed.

    Raises:
        ValueError: for a boolean, a fraction, another type or a number out of range.
    """
    value = _static(value)
    try:
        # operator.index accepts booleans.
        whole = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or not lowest <= whole <= highest:
        upper = f" and at most {highest}" if whole is not None and whole > highest else ""
        raise ValueError(f"{name}={shown(value)}: must be a whole number, at least {lowest}{upper}")
    return whole


def count_or_tensor(name: str, value: Any, lowest: int) -> "int | tf.Tensor":
    """Returns a count; an integer scalar tensor without a static value is returned unchanged."""
    if (
        _is_tensor(value)
        and _static(value) is value
        and value.dtype.is_integer
        and value.shape.rank in (0, None)
    ):
        return value
    return count(name, value, lowest)


def number(name: str, value: Any, rule: str, holds: Callable[[float], bool]) -> float:
    """Returns a real number of any type as a float.

    Args:
        name: name of the argument, for the message.
        value: a number, or a scalar tensor with a static value.
        rule: condition on the number, in words.
        holds: returns whether a number meets the condition.

    Raises:
        ValueError: for a boolean, another type or a number that does not meet the condition.
    """
    static = _static(value)
    is_number = isinstance(static, numbers.Real) and not isinstance(static, bool)
    if not is_number or not holds(float(static)):
        raise ValueError(f"{name}={shown(value)}: must be a number, {rule}")
    return float(static)


def _is_tensor(value: Any) -> bool:
    """Returns whether a value is a tensor, without loading TensorFlow.

    Commands check their flags before they load it, and without it there are no tensors.
    """
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return tf.is_tensor(value)


def _static(value: Any) -> Any:
    """Returns the scalar in a tensor or an array; any other value unchanged."""
    if _is_tensor(value):
        import tensorflow as tf

        static = tf.get_static_value(value)
        value = value if static is None else static
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def seed(value: Any) -> int:
    """Returns the seed from which every draw is folded, from 0 to 2^31 - 1.

    Raises:
        ValueError: for anything else.
    """
    return count("seed", value, 0)


def stateless_seed(value: Any) -> "tf.Tensor":
    """Returns the int32 `[2]` seed of TensorFlow's stateless random functions.

    The seed becomes int32, because an int64 seed of the same value draws other numbers.

    Raises:
        ValueError: unless the value is a pair of whole numbers in the range of int32.
    """
    import tensorflow as tf

    hint = "must be two whole numbers in the range of int32, such as tf.constant([0, 1])"
    try:
        pair = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"seed={shown(value)}: {hint}") from error
    fits = pair.dtype.is_integer and pair.shape.is_compatible_with([2])
    static = tf.get_static_value(pair) if fits else None
    if not fits or (static is not None and np.any(static != static.astype(np.int32))):
        raise ValueError(f"seed={shown(value)}: {hint}")
    return tf.cast(pair, tf.int32)


def shown(value: Any) -> str:
    """Returns a value as a message quotes it: on one line and at most 80 characters."""
    if _is_tensor(value):
        return f"<a {value.dtype.name} tensor of shape {value.shape}>"
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to print an integer of more than 4300 digits
        text = f"<a large {type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
