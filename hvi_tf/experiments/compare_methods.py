"""VAE, HVM, SIVI and IWHVI trained alike and compared image by image.

    python -m hvi_tf.experiments.compare_methods --out=runs/compare_methods

Each method is a run of the command line in a folder of its own; a finished run is not
repeated. All of them are scored on the same binarized test images, so the differences
are paired: their standard error leaves out what makes an image easy or hard for all.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from absl import app, flags

from hvi_tf import workdir as workdirs
from hvi_tf.experiments.provenance import provenance

_OUT = flags.DEFINE_string("out", "runs/compare_methods", "Folder of the runs and the table.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Epochs of each method.")
_K = flags.DEFINE_integer("K", 5, "Draws of psi in training, for SIVI and IWHVI.")
_EVAL_M = flags.DEFINE_integer("eval_M", 100, "Draws of z in the scores.")
_EVAL_K = flags.DEFINE_integer("eval_K", 20, "Draws of psi in the scores.")
_EVAL_IMAGES = flags.DEFINE_integer("eval_images", 10_000, "Test images.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of every run.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "As for hvi_tf.main.")

METHODS = ("vae", "hvm", "sivi", "iwhvi")
BASELINE = "vae"


def run_method(bound: str, folder: pathlib.Path) -> dict[str, Any]:
    """Trains and scores one method by the command line; returns its summary."""
    command = [
        *(sys.executable, "-m", "hvi_tf.main", f"--bound={bound}", f"--workdir={folder / bound}"),
        *(f"--epochs={_EPOCHS.value}", f"--seed={_SEED.value}", f"--data_dir={_DATA_DIR.value}"),
        *(f"--eval_M={_EVAL_M.value}", f"--eval_K={_EVAL_K.value}"),
        f"--eval_images={_EVAL_IMAGES.value}",
    ]
    if bound in ("sivi", "iwhvi"):
        command.append(f"--K={_K.value}")
    subprocess.run(command, check=True)
    pattern = f"test_M{_EVAL_M.value}_K*_N{_EVAL_IMAGES.value}.json"
    (path,) = (folder / bound / "evaluation").glob(pattern)
    return json.loads(path.read_text())


def log_likelihoods(summary: dict[str, Any]) -> np.ndarray:
    """The per-image scores `[N]`, nats, that a summary averages."""
    with np.load(summary["scores"]) as scores:
        return scores["log_likelihood"][: summary["images"]].astype(np.float64)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over images and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def table(summaries: dict[str, dict[str, Any]]) -> str:
    """A Markdown table with the paired difference of each method to the VAE."""
    baseline = log_likelihoods(summaries[BASELINE])
    lines = [
        "| method | test log-likelihood | minus VAE, image by image | KL(tau\\|\\|q(psi)) |",
        "|---|---|---|---|",
    ]
    for bound, summary in summaries.items():
        values = log_likelihoods(summary)
        mean, error = mean_and_error(values)
        difference, difference_error = mean_and_error(values - baseline)
        paired = "" if bound == BASELINE else f"{difference:+.2f} ± {difference_error:.2f}"
        kl = f"{summary['kl_tau_mixing']['mean']:.2f}" if summary["K"] else ""
        lines.append(f"| {bound} | {mean:.2f} ± {error:.2f} | {paired} | {kl} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Runs every method and prints and stores the table."""
    del argv
    folder = pathlib.Path(_OUT.value)
    summaries = {bound: run_method(bound, folder) for bound in METHODS}
    first = summaries[BASELINE]
    text = (
        f"{table(summaries)}\n\nNats; mean ± standard error over {first['images']} test images; "
        f"{_EPOCHS.value} epochs, K={_K.value} in training, scored with M={_EVAL_M.value}, "
        f"K={_EVAL_K.value} (the VAE by IWAE). {provenance()}."
    )
    workdirs.write_atomically(folder / "table.md", text + "\n")
    print("\n" + text)


if __name__ == "__main__":
    app.run(main)
