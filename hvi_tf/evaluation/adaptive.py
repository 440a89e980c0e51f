"""How many draws of z the score of an image needs, told by a pilot run of its own draws.

The log of a mean of M weights has a standard error of about CV / sqrt(M), with CV the weights'
coefficient of variation, and is below log p(x) by about CV^2 / (2 M). To stop as soon as the
draws at hand look good would choose M by the very weights that are averaged, which need not
bound anything. Draws that a pilot has chosen M by are never scored: given M, a score is an
ordinary M-sample bound. The weights of z that share psi depend on each other, so their error may
be larger than the pilot tells.
"""

import numpy as np

# Draws of z of the pilot, and the fewest that are scored.
PILOT = 100


def levels(most: int) -> list[int]:
    """The numbers of draws to choose from: the pilot's, doubled until `most`."""
    found = [min(PILOT, most)]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def choose(ess: np.ndarray, tolerance: float, most: int) -> np.ndarray:
    """The least level that a pilot finds enough, or `most`; int64 `[N]`.

    Args:
        ess: effective sample size of each image's pilot `[N]`, between 1 and `PILOT`. Weights
            with a heavy tail have more variance than so few of them show.
        tolerance: standard error to be reached, nats.
        most: largest number of draws.
    """
    steps = np.array(levels(most))
    squared_variation = steps[0] / np.asarray(ess, np.float64) - 1.0
    needed = squared_variation / tolerance**2
    return steps[np.minimum(np.searchsorted(steps, needed), len(steps) - 1)]
