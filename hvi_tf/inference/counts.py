"""Records of counts and warm-up weights. They travel whole through all levels."""

from typing import TYPE_CHECKING, NamedTuple, Union

if TYPE_CHECKING:
    import tensorflow as tf

Integer = Union[int, "tf.Tensor"]
Weight = Union[float, "tf.Tensor"]


class Counts(NamedTuple):
    """Numbers of draws of the latent variables.

    Attributes:
        K: draws of psi for each z, in addition to the psi_0 that generated it.
        M: draws of z for each observation.
        L: draws of zeta for each z under a hierarchical prior, otherwise 1.
    """

    K: Integer = 0
    M: Integer = 1
    L: Integer = 1


class Warmup(NamedTuple):
    """Weights in [0, 1] of two terms of the bound. Below 1 the value is not a bound.

    Attributes:
        inner: c_in, the weight of log q(psi|x) - log tau(psi|z,x).
        outer: c_out, the weight of log p(z) - log q(z|x).
    """

    inner: Weight = 1.0
    outer: Weight = 1.0


NO_WARMUP = Warmup()


class Count(NamedTuple):
    """A number of draws that a method leaves to the user or fixes.

    Attributes:
        default: the number if the user gives none.
        free: whether the user may choose another number.
    """

    default: int
    free: bool


class FixedCountError(ValueError):
    """An error for a count that differs from the one that the method fixes.

    Args:
        method: the name of the method.
        name: K, M or L.
        value: the value that was passed.
        fixed: the value that the method fixes.

    Attributes:
        name: K, M or L.
        value: the value that was passed.
        fixed: the value that the method fixes.
    """

    def __init__(self, method: str, name: str, value: int, fixed: int) -> None:
        reason = " with this prior" if name == "L" else ""
        super().__init__(f"{name}={value}: bound={method!r}{reason} fixes {name}={fixed}")
        self.name, self.value, self.fixed = name, value, fixed
