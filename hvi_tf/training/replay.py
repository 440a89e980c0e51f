"""Repeats the draws of a training step that was not finite, from its dump.

    python -m hvi_tf.training.replay runs/NAME/nonfinite/step_120.npz

prints the first term that is not finite, and its training images.
"""

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from hvi_tf.cli import exits as command_line
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MAX_COUNT
from hvi_tf.errors import UserError
from hvi_tf.runtime import startup
from hvi_tf.runtime.progress import counted
from hvi_tf.storage import npz
from hvi_tf.storage.workdir import open_existing

if TYPE_CHECKING:
    from hvi_tf.models.vae import VAE
    from hvi_tf.training.nonfinite import Finding, Step


def replay(path: pathlib.Path) -> "tuple[Config, Step, Finding | None]":
    """Repeats the draws of a dumped step.

    Args:
        path: path of the npz file, in its run's workdir.

    Returns:
        The run's configuration, the step, and its first term that is not finite, or None.

    Raises:
        UserError: if the file is not a dump of the run that owns its folder.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give nonfinite/step_N.npz of a run's workdir")
    config = open_existing(path.absolute().parent.parent, writes=False).config
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training import nonfinite

    try:
        arrays = npz.read_arrays(path)
        step = _step(arrays)
        model = make_vae(config, step.x.shape[1])
        _take_weights(model, arrays)
        of_weights = bool(arrays["of_weights"])
    except (OSError, OverflowError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{path}: not a dump of this run ({error}); give nonfinite/step_N.npz"
        ) from error
    if of_weights:
        return config, step, nonfinite.of_weights(model)
    return config, step, nonfinite.first_term(nonfinite.densities(model, step))


def _step(arrays: dict[str, np.ndarray]) -> "Step":
    """Returns the step that the arrays of a dump describe; raises `ValueError` if they do not."""
    import tensorflow as tf

    from hvi_tf.config.schedules import ScheduleValues
    from hvi_tf.training.nonfinite import Step

    x, rows, number = arrays["x"], arrays["rows"], int(arrays["number"])
    K, *rest = arrays["schedule"].tolist()
    if x.dtype != np.float32 or x.ndim != 2 or not x.size:
        raise ValueError(f"images of shape {x.shape} and {x.dtype}")
    if rows.dtype.kind != "i" or rows.shape != x.shape[:1]:
        raise ValueError(f"{rows.shape} numbers of {len(x)} images")
    if not (0 < number < 2**31 and 0 <= K <= MAX_COUNT):
        raise ValueError(f"step {number} of K={K}")
    return Step(number, tf.constant(x), rows, ScheduleValues(int(K), *rest))


def _take_weights(model: "VAE", arrays: dict[str, np.ndarray]) -> None:
    for name, variable in model.weights_by_name.items():
        variable.assign(arrays[f"weight/{name}"])


def main(argv: list[str]) -> None:
    """Prints the first term that is not finite in a dumped step."""

    def command() -> None:
        if len(argv) != 2:
            raise UserError("give one dump: python -m hvi_tf.training.replay STEP.npz")
        startup.quiet_tensorflow(flags.FLAGS.debug)
        config, step, finding = replay(pathlib.Path(argv[1]))
        from hvi_tf.training.nonfinite import LISTED

        images = counted(len(step.rows), "image")
        print(f"step {step.number} of --bound={config.method.bound}, {images}")
        if finding is None:
            print("all densities and weights are finite; a gradient was not")
        elif finding.of_weights:
            print(f"{finding} after the update of this step")
        else:
            rows = step.rows[finding.images].tolist()
            print(f"{finding} for {counted(len(rows), 'training image')}: {rows[:LISTED]}")

    command_line.run(command, lambda: command_line.again("hvi_tf.training.replay"))


if __name__ == "__main__":
    command_line.start(main, __doc__)
