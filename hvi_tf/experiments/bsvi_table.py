"""The eight rows of tables 4 to 6 of Shu et al. 2019, on a laptop's networks.

    python -m hvi_tf.experiments.bsvi_table --dataset=omniglot --out=runs/bsvi_table

Every row is trained with every seed by the command line, in a folder of its own, and scored
by BSVI and SVI on the same observed test images. A finished run is not repeated. The paper's
own settings are flags/bsvi_*.cfg; here multilayer perceptrons stand in for its convolutions.
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

FLAGS = flags.FLAGS


ROWS = {
    "VAE": ["--bound=vae"],
    "IWAE-10": ["--bound=iwae", "--M=10"],
    "SVI-10": ["--bound=svi", "--svi_steps=10"],
    "BSVI-9-DS": ["--bound=bsvi", "--svi_steps=9", "--double_sampling"],
    "BSVI-9": ["--bound=bsvi", "--svi_steps=9"],
    "BSVI-9-pi": ["--bound=bsvi", "--svi_steps=9", "--pi=learned"],
    "BSVI-9-SIR": ["--bound=bsvi", "--svi_steps=9", "--sir"],
    "BSVI-9-SIR-pi": ["--bound=bsvi", "--svi_steps=9", "--sir", "--pi=learned"],
}
COLUMNS = {
    "log_likelihood": "log-likelihood",
    "elbo": "ELBO*",
    "kl": "KL*",
    "reconstruction": "Reconstruction*",
}


def run_row(name: str, seed: int) -> dict[str, float]:
    """Trains and scores one row with one seed; its means over the test images, nats."""
    folder = pathlib.Path(FLAGS.out) / f"{name}-seed{seed}"
    common = {
        **dict(dataset=FLAGS.dataset, split="shu", scale="log_variance", hidden="200,200"),
        **dict(data_dir=FLAGS.data_dir, manual_dir=FLAGS.manual_dir, workdir=folder, seed=seed),
        **dict(optimizer="amsgrad", learning_rate=2e-3, annealing_factor=1, clip_norm=5),
        **dict(batch_size=50, epochs=1_000_000, max_steps=FLAGS.steps, steps_per_call=50),
        **dict(jit_compile=FLAGS.jit_compile, estimator="bsvi", eval_M=10),
        **dict(eval_steps=FLAGS.eval_steps, eval_images=FLAGS.eval_images),
    }
    if FLAGS.dataset == "omniglot":  # as in the paper
        common["kl_annealing_steps"] = FLAGS.steps // 10
    if FLAGS.dataset == "fashion_mnist":
        common["likelihood"] = "discretized_logistic"
    arguments = [f"--{flag}={value}" for flag, value in common.items()]
    subprocess.run([sys.executable, "-m", "hvi_tf.main", *arguments, *ROWS[name]], check=True)
    pattern = f"test_bsvi_steps{FLAGS.eval_steps}_*_N{FLAGS.eval_images}.json"
    (path,) = (folder / "evaluation").glob(pattern)
    summary = json.loads(path.read_text())
    return {column: summary[column]["mean"] for column in COLUMNS}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table of means and standard deviations over seeds."""
    lines = [f"| model | {' | '.join(COLUMNS.values())} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, runs in results.items():
        cells = []
        for column in COLUMNS:
            values = np.array([run[column] for run in runs])
            spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.2f}{spread}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """The paper's claim for each row of BSVI, held against the VAE seed by seed."""
    said = []
    for name in ROWS:
        if not name.startswith("BSVI"):
            continue
        for column, meaning in (("log_likelihood", "log-likelihood"), ("kl", "KL*")):
            gains = np.array(
                [
                    run[column] - vae[column]
                    for run, vae in zip(results[name], results["VAE"], strict=True)
                ]
            )
            verdict = "holds" if (gains > 0).all() else "DOES NOT HOLD"
            each = ", ".join(f"{g:+.2f}" for g in gains)
            said.append(f"{name}: {meaning} above the VAE's: {verdict} (by seed {each} nats)")
    return said


def main(argv: list[str]) -> None:
    """Runs all rows and prints and stores the table."""
    del argv
    folder = pathlib.Path(FLAGS.out)
    results: dict[str, list[dict[str, float]]] = {
        name: [run_row(name, seed) for seed in range(FLAGS.seeds)] for name in ROWS
    }
    text = "\n".join(
        [
            table(results),
            "",
            f"Nats; mean ± standard deviation over {FLAGS.seeds} seeds, on the first "
            f"{FLAGS.eval_images} test images of {FLAGS.dataset}; {FLAGS.steps} training steps; "
            f"log-likelihood by BSVI-{FLAGS.eval_steps}, ELBO* after {FLAGS.eval_steps} steps of "
            f"SVI. {provenance()}.",
            "",
            *(f"* {claim}" for claim in claims(results)),
        ]
    )
    stored: dict[str, Any] = {"results": results, "provenance": provenance()}
    workdirs.write_json(folder / "table.json", stored)
    workdirs.write_atomically(folder / "table.md", text + "\n")
    print("\n" + text)


def define_flags() -> None:
    """Only for a run of this module: other modules have flags of these names."""
    flags.DEFINE_string("out", "runs/bsvi_table", "Folder of the runs and the table.")
    flags.DEFINE_string("dataset", "omniglot", "Data set, with its split shu.")
    flags.DEFINE_string("data_dir", "", "As for hvi_tf.main.")
    flags.DEFINE_string("manual_dir", "", "As for hvi_tf.main.")
    flags.DEFINE_integer("seeds", 3, "Seeds of every row.")
    flags.DEFINE_integer("steps", 4_000, "Training steps of every run.")
    flags.DEFINE_integer("eval_steps", 100, "Steps of SVI in the scores.")
    flags.DEFINE_integer("eval_images", 500, "Test images.")
    flags.DEFINE_string("jit_compile", "on", "As for hvi_tf.main.")


if __name__ == "__main__":
    define_flags()
    app.run(main)
