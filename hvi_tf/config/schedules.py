"""Schedules as pure functions of the epoch, so that a resumed run needs no state."""

import itertools
import math
from typing import NamedTuple


class ScheduleValues(NamedTuple):
    """The values of all schedules in one epoch.

    Attributes:
        K: number of psi_1:K.
        inner: weight c_in of log q(psi|x) - log tau(psi|z,x), in [0, 1].
        outer: weight c_out of log p(z) - U, in [0, 1].
        learning_rate: largest step size of the optimizer.
    """

    K: int
    inner: float
    outer: float
    learning_rate: float


def parse_steps(text: str, epochs: int) -> tuple[tuple[int, int], ...]:
    """Reads `epoch:value` pairs such as `0:0,250:5,500:25,1000:50`, or `0%:5,80%:50`.

    Args:
        text: the pairs, all with epochs or all with percents of the run.
        epochs: number of epochs of the run. A percent means the first epoch that
            begins at it or later.

    Returns:
        Pairs of epoch and value. In a short run two percents may mean the same epoch; then the
        later pair holds.

    Raises:
        ValueError: if the text is malformed, does not begin at epoch 0, or its epochs
            do not increase.
    """
    try:
        pairs = [(start, int(value)) for start, value in (p.split(":") for p in text.split(","))]
        starts = [int(start.removesuffix("%")) for start, _ in pairs]
    except ValueError:
        raise ValueError("not a list of epoch:value pairs") from None
    percents = {start.endswith("%") for start, _ in pairs}
    if len(percents) > 1:
        raise ValueError("has both epochs and percents")
    if starts[0] != 0:
        raise ValueError(f"begins at epoch {starts[0]}, not 0")
    if any(after <= before for before, after in itertools.pairwise(starts)):
        raise ValueError("its epochs do not increase")
    if percents == {True}:
        if starts[-1] > 100:
            raise ValueError(f"{starts[-1]}% is more than 100%")
        starts = [math.ceil(start * epochs / 100) for start in starts]
    return tuple(zip(starts, (value for _, value in pairs), strict=True))


def step_function(steps: tuple[tuple[int, int], ...], epoch: int) -> int:
    """Returns the value of the last step at or before `epoch`."""
    return [value for start, value in steps if start <= epoch][-1]


def linear_warmup(epoch: int, epochs: float) -> float:
    """Returns min(1, epoch / epochs), or 1 if `epochs` is 0."""
    return min(1.0, epoch / epochs) if epochs > 0 else 1.0


def exponential_decay(epoch: int, initial: float, factor: float, every: float) -> float:
    """Returns `initial * factor ** (epoch / every)`, with a continuous exponent."""
    return initial * factor ** (epoch / every)
