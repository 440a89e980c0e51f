"""The table of experiments: the figure or table that each reproduces, and its cost.

The module of `bsvi-tables` is `hvi_tf.experiments.bsvi.bsvi_tables`, which defines `EXPERIMENT`.
A module is imported only when its experiment is loaded, so listing all experiments is fast.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hvi_tf.experiments.harness.experiment import Experiment

PRESETS = ("quick", "full", "long")
IWHVI = "Sobolev & Vetrov 2019"
BSVI = "Shu et al. 2019"
BEYOND = "beyond the papers"
FOLDERS = {IWHVI: "iwhvi", BSVI: "bsvi", BEYOND: "beyond"}


class Entry(NamedTuple):
    """One line of the table.

    Attributes:
        name: of the experiment on the command line.
        title: of its section in the report.
        source: the paper, with its figure or table.
        quick: measured cost of the preset on 2 cores.
        full: estimated cost of the preset.
        long: estimated cost of the preset on 2 cores; empty if there is no such preset.
    """

    name: str
    title: str
    source: str
    quick: str
    full: str
    long: str = ""

    @property
    def presets(self) -> tuple[str, ...]:
        """Returns the names of its presets."""
        return PRESETS if self.long else PRESETS[:2]

    @property
    def module(self) -> str:
        """Returns the name of the module that defines its `EXPERIMENT`."""
        folder = FOLDERS[self.source.split(",")[0]]
        return f"hvi_tf.experiments.{folder}.{self.name.replace('-', '_')}"


_ROWS = (
    Entry(
        "laplace",
        "Negative entropy of a Laplace",
        f"{IWHVI}, figure 1a",
        "3 min",
        "30 min on 2 cores",
    ),
    Entry(
        "laplace-jackknife",
        "Negative entropy of a Laplace with the jackknife",
        f"{IWHVI}, figure 4",
        "1 min after laplace, 3 min alone",
        "30 min on 2 cores",
    ),
    Entry(
        "training-k",
        "K in training",
        f"{IWHVI}, figure 1b",
        "12 min",
        "400 GPU h",
        "1 day",
    ),
    Entry(
        "likelihood-table",
        "Test log-likelihoods of all methods",
        f"{IWHVI}, figure 2 left",
        "14 min",
        "4,000 GPU h, mostly for the grid",
        "3 days",
    ),
    Entry(
        "evaluation-metric",
        "DIWHVI as evaluation metric",
        f"{IWHVI}, figure 2 right",
        "8 min",
        "60 GPU h",
        "10 h after likelihood-table",
    ),
    Entry(
        "gradient-snr",
        "Signal-to-noise ratios on an autoencoder",
        f"{IWHVI}, figure 3a",
        "3 min",
        "5 GPU h",
    ),
    Entry(
        "gradient-snr-toy",
        "Signal-to-noise ratios on a toy",
        f"{IWHVI}, figure 3b",
        "1 min",
        "15 min on 2 cores",
    ),
    Entry(
        "posterior-collapse",
        "Information about z in tau",
        f"{IWHVI}, section 6.3",
        "1 min after likelihood-table, 4 min alone",
        "1 GPU h after likelihood-table",
        "1 min after likelihood-table",
    ),
    Entry(
        "bsvi-tables",
        "Eight ways to train",
        f"{BSVI}, tables 4 to 9",
        "9 min",
        "2,000 GPU h",
        "1 day",
    ),
    Entry(
        "bsvi-vs-iwae",
        "BSVI against IWAE",
        f"{BSVI}, tables 10 to 12",
        "2 min after bsvi-tables, 11 min alone",
        "20 GPU h after bsvi-tables",
        "20 min after bsvi-tables",
    ),
    Entry(
        "ground-truth",
        "Distance from the truth at equal compute",
        BEYOND,
        "6 min after evaluation-metric, 9 min alone",
        "60 GPU h, mostly for the model that evaluation-metric also trains",
    ),
    Entry(
        "dreg-phi",
        "Doubly reparameterized gradients for q",
        BEYOND,
        "9 min after gradient-snr, 10 min alone",
        "150 GPU h",
    ),
    Entry(
        "shared-inverse",
        "One inverse for all z",
        BEYOND,
        "10 min after likelihood-table",
        "half an hour on 2 cores, plus an hour for its three models",
    ),
    Entry(
        "mixture-training",
        "Training with one inverse for all z",
        BEYOND,
        "14 min",
        "3 h on 2 cores",
    ),
    Entry(
        "backward-samples",
        "Gradients through some of the K terms",
        BEYOND,
        "12 min after gradient-snr, 14 min alone",
        "20 GPU h",
    ),
    Entry(
        "nats-per-minute",
        "Gain of each change to the training recipe",
        BEYOND,
        "10 min",
        "1 day on 2 cores",
    ),
)
ENTRIES = {entry.name: entry for entry in _ROWS}


def load(name: str) -> "Experiment":
    """Imports the module of an experiment in the table and returns its `EXPERIMENT`."""
    return importlib.import_module(ENTRIES[name].module).EXPERIMENT
