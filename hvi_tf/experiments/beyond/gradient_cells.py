"""The cells of experiments that compare gradients: times, moments and trainings."""

from collections.abc import Callable

from hvi_tf.experiments.harness.experiment import Cell, Context, Settings
from hvi_tf.experiments.harness.rows import Row

Measurement = Callable[[Settings, Context], list[Row]]


def make_measure(
    times: Callable[[Settings], list[Row]], moments: Measurement, training: Measurement
) -> Callable[[Cell, Context], list[Row]]:
    """Returns the function that measures a cell by its kind.

    Args:
        times: measures the cell with the setting `rounds`.
        moments: measures a cell with the setting `draws`.
        training: measures any other cell.
    """

    def measure(cell: Cell, context: Context) -> list[Row]:
        if "rounds" in cell.settings:
            return times(cell.settings)
        if "draws" in cell.settings:
            return moments(cell.settings, context)
        return training(cell.settings, context)

    return measure
