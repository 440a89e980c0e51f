"""Compares learning rates of the inner SVI loop by the bounds of a trained run.

    python -m hvi_tf.experiments.svi_learning_rate --workdir=runs/vae

Shu et al. 2019 use a rate of 1.0 on the mean ELBO of 50 images, which is a rate of 1/50 on the
ELBO of each image. This package climbs the ELBO of each image. The command trains and writes
nothing.
"""

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from hvi_tf.cli import exits as command_line
from hvi_tf.config import rules as validation
from hvi_tf.errors import UserError
from hvi_tf.runtime import startup
from hvi_tf.storage import workdir as workdirs

if TYPE_CHECKING:
    import tensorflow as tf

    from hvi_tf.models.vae import VAE

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run.", required=True)
_RATES = flags.DEFINE_list("rates", "0.02,0.05,0.1,0.2,0.5,1", "Learning rates per image.")
_STEPS = flags.DEFINE_list("steps", "10,100,500", "Lengths of the loop.")
_CLIPS = flags.DEFINE_list("clips", "1,0", "Clip norms per image; 0 does not clip.")
_IMAGES = flags.DEFINE_integer("images", 200, "Number of first validation images.", 1)
_DRAWS = flags.DEFINE_integer("draws", 10, "Draws from the refined proposal.", 1)


def trained(path: pathlib.Path) -> "tuple[VAE, np.ndarray]":
    """Returns the model of a run at its best checkpoint, and its observed validation images."""
    run = workdirs.open_existing(path, writes=False)
    from hvi_tf import randomness
    from hvi_tf.data import datasets, pipeline
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training.checkpoints import Checkpoints

    data = datasets.load(run.config.data)
    model = make_vae(run.config, data.test.shape[1])
    Checkpoints(model, run).restore_best()
    seed, likelihood = run.config.training.seed, run.config.model.likelihood
    x = pipeline.fixed_observation(data.validation, likelihood, seed, randomness.Purpose.VALIDATE)
    return model, x


def table(model: "VAE", x: "tf.Tensor") -> str:
    """Returns a Markdown table of the bounds for every rate and number of steps."""
    steps = _numbers(_STEPS, int)
    columns = [f"BSVI-{k} | ELBO after {k}" for k in steps]
    lines = ["| clip | rate | " + " | ".join(columns) + " |", "|---" * (2 + 2 * len(steps)) + "|"]
    for clip in _numbers(_CLIPS, float):
        for rate in _numbers(_RATES, float):
            cells = [_cell(model, x, k, rate, clip) for k in steps]
            lines.append(f"| {clip:g} | {rate:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _numbers(flag: flags.FlagHolder, kind: type) -> list:
    try:
        return [kind(text) for text in flag.value]
    except ValueError as error:
        raise UserError(f"--{flag.name}={','.join(flag.value)}: must be numbers") from error


def _cell(model: "VAE", x: "tf.Tensor", steps: int, rate: float, clip: float) -> str:
    from hvi_tf import randomness
    from hvi_tf.inference import refined_scores

    settings = model.svi_settings(steps=steps)._replace(learning_rate=rate, clip_norm=clip)
    score = refined_scores.make_scorer(model.localize, model.method, settings, draws=_DRAWS.value)
    scores = score(x, randomness.fold(model.seed, randomness.Purpose.VALIDATE))
    return f"{np.mean(scores.log_likelihood):.2f} | {np.mean(scores.elbo):.2f}"


def main(argv: list[str]) -> None:
    """Prints the table."""
    del argv

    def command() -> None:
        startup.quiet_tensorflow(flags.FLAGS.debug)
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # it warns of retracing, once for each rate
        model, x = trained(validation.local_path("--workdir", _WORKDIR.value))
        print(table(model, x[: _IMAGES.value]))
        print(f"\nMean over {_IMAGES.value} validation images, nats; with the momentum of the run.")

    command_line.run(command, lambda: command_line.again("hvi_tf.experiments.svi_learning_rate"))
