"""Schedules: pure functions of the epoch, so that a resumed run needs no state."""

import itertools
from typing import NamedTuple


class ScheduleValues(NamedTuple):
    """What the schedules prescribe for one epoch.

    Attributes:
        K: number of psi_1:K.
        inner: weight c_in of log q(psi|x) - log tau(psi|z,x), in [0, 1].
        outer: weight c_out of log p(z) - U, in [0, 1].
        learning_rate: step size of the optimizer.
    """

    K: int
    inner: float
    outer: float
    learning_rate: float


def parse_steps(text: str) -> tuple[tuple[int, int], ...]:
    """Reads `epoch:value` pairs such as `0:0,250:5,500:25,1000:50`.

    Raises:
        ValueError: if the text is malformed, does not begin at epoch 0, or its epochs
            do not increase.
    """
    try:
        steps = tuple(
            (int(epoch), int(value))
            for epoch, value in (pair.split(":") for pair in text.split(","))
        )
    except ValueError:
        raise ValueError("not a list of epoch:value pairs") from None
    epochs = [epoch for epoch, _ in steps]
    if epochs[0] != 0:
        raise ValueError(f"begins at epoch {epochs[0]}, not 0")
    if any(after <= before for before, after in itertools.pairwise(epochs)):
        raise ValueError("its epochs do not increase")
    return steps


def step_function(steps: tuple[tuple[int, int], ...], epoch: int) -> int:
    """The value of the last step at or before `epoch`."""
    return [value for start, value in steps if start <= epoch][-1]


def linear_warmup(epoch: int, epochs: float) -> float:
    """Rises from 0 at epoch 0 to 1 at epoch `epochs`; 1 throughout if `epochs` is 0."""
    return min(1.0, epoch / epochs) if epochs > 0 else 1.0


def exponential_decay(epoch: int, initial: float, factor: float, every: float) -> float:
    """`initial * factor ** (epoch / every)`, with a continuous exponent."""
    return initial * factor ** (epoch / every)
