"""Times of several contestants, measured in turn, and their ratios.

A machine has slow minutes. Every contestant runs once in each round, so a slow minute affects all
of them, and ratios compare two times of the same round.
"""

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MAX_REPEATS = 100

Times = dict[str, list[float]]  # milliseconds of one repeat, by contestant and round


def in_turn(contestants: Mapping[str, Callable[[int], Any]], rounds: int, seconds: float) -> Times:
    """Times every contestant once in each round.

    Args:
        contestants: by name; each is called with the number of repeats. It has run before, so no
            compilation is timed.
        rounds: number of rounds.
        seconds: minimum duration of a measurement, reached by repeats.
    """
    repeats = {}
    for name, run in contestants.items():
        once = _seconds(run, 1)
        repeats[name] = min(MAX_REPEATS, max(1, math.ceil(seconds / once)))
    times: Times = {name: [] for name in contestants}
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contestants.items():
                times[name].append(1e3 * _seconds(run, repeats[name]) / repeats[name])
    finally:
        gc.enable()
    return times


def _seconds(run: Callable[[int], Any], repeats: int) -> float:
    started = time.perf_counter()
    run(repeats)
    return time.perf_counter() - started


def spread(values: Any) -> dict[str, float]:
    """Returns smallest value, quartiles and median, for JSON."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    smallest = float(np.min(values))
    return {"min": smallest, "q1": float(low), "median": float(middle), "q3": float(high)}


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Returns the `spread` of the ratios, round by round."""
    return spread(np.divide(numerator, denominator))
