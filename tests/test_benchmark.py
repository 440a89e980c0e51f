"""The benchmark measures what it says; no test asserts a time."""

import numpy as np

from hvi_tf import benchmark
from hvi_tf.benchmark import Cell


def cells(*steps):
    return [Cell(m, k, 4, (8, 8), "off") for m in benchmark.METHODS for k in steps]


def test_every_cell_is_timed_in_every_round():
    few = cells(1)
    times = benchmark.measure_times(few, rounds=2, repeats=1)
    assert times.shape == (len(few), 2)
    assert np.all(times > 0)


def test_the_table_fits_a_line_through_the_medians():
    some = cells(1, 2, 4)
    k = np.array([cell.svi_steps for cell in some])
    times = (3.0 + 2.0 * k)[:, None] + np.array([-0.5, 0.0, 0.5])
    text = benchmark.table(some, times, list(700.0 + k))
    assert "| bsvi | 4 | 11.0 (10.5 to 11.5) | 704 |" in text
    assert "* bsvi: 3.0 + 2.00 k ms, at most 0.0 ms off; +3 MB from k=1 to k=4" in text
