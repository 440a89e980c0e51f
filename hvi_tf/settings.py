"""The settings of a run by section; each field carries the help text of its flag.

So the flags, their defaults and the stored configuration cannot drift apart.
"""

import dataclasses
import math
from typing import Any

from hvi_tf.methods import METHODS

# Far above any use, far below what would exhaust a machine by a slip of the keyboard.
MAX_COUNT = 100_000
MAX_EVAL_COUNT = 10_000_000
MAX_EPOCHS = 10_000_000
MAX_ROWS = 2_000_000  # (K + 1) * M * batch, rows of the conditional network in a step
MAX_WIDTH = 100_000


def _flag(
    default: Any, help_text: str | None, low: float | None = None, high: float = math.inf
) -> Any:
    """A field with the help text of its flag and, for numbers, its inclusive range.

    Without a help text it is no flag: the program fills it in.
    """
    metadata = {"help": help_text, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which data, and where they lie."""

    dataset: str = _flag(
        "mnist",
        "Data set: mnist (in the package), fashion_mnist or omniglot (28x28, Burda et al.).",
    )
    split: str = _flag(
        "sobolev",
        "Which training images are held out for validation: sobolev (5,000), and for "
        "omniglot also burda (1,345) or shu (2,000).",
    )
    data_dir: str = _flag(
        "", "Folder of prepared TFDS data sets. Default: TFDS's own (~/tensorflow_datasets)."
    )
    manual_dir: str = _flag(
        "",
        "Folder with the data set's original files, if you already have them; for omniglot "
        "also the path of its chardata.mat.",
    )
    data_digest: str = _flag("", None)  # MD5 of omniglot's file, once it is known


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """A row of the method table, its counts and its gradient estimator.

    Counts and estimator are None until `make` has put the method's own values there.
    """

    bound: str = _flag(
        "iwhvi", "Bound: " + "; ".join(f"{m.name} = {m.summary}" for m in METHODS.values()) + "."
    )
    K: int = _flag(
        None,
        "Draws of psi besides psi_0: always in validation, and in training unless "
        "--K_schedule says otherwise. Default: 50 where the bound has a K.",
        0,
        MAX_COUNT,
    )
    M: int = _flag(
        None,
        "Draws of z. Default: 5 for iwae, diwhvi, sivi-equicomp and sivi-equisample, 1 for "
        "the others.",
        1,
        MAX_COUNT,
    )
    L: int = _flag(
        None,
        "Draws of zeta from rho(zeta|z) under --prior=hierarchical. Default: 50 there.",
        1,
        MAX_COUNT,
    )
    gradient: str = _flag(
        None,
        "Gradient estimator: reparameterized (default); dreg = doubly reparameterized for "
        "tau (Sobolev & Vetrov 2019, eq 9); gdreg = for tau, q and rho; iwae-dreg = for an "
        "explicit q; stl = q's path only; dreg-biased = for study only.",
    )
    prior: str = _flag(
        None,
        "p(z): normal, or hierarchical (a mixture with networks p(z|zeta) and rho(zeta|z)). "
        "Default: normal, but hierarchical for dsivi and joint.",
    )
    posterior: str = _flag(
        "gaussian",
        "Explicit q(z|x) of vae and iwae: gaussian, or that followed by flows: iaf or realnvp.",
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the variational autoencoder."""

    hidden: tuple[int, ...] = _flag(
        (300, 300), "Units of the hidden layers of every network, comma-separated.", 1, MAX_WIDTH
    )
    latent_dim: int = _flag(32, "Dimensions of z.", 1, MAX_WIDTH)
    aux_dim: int = _flag(32, "Dimensions of psi.", 1, MAX_WIDTH)
    prior_dim: int = _flag(32, "Dimensions of zeta under --prior=hierarchical.", 1, MAX_WIDTH)
    num_flows: int = _flag(2, "Flow transformations under --posterior=iaf|realnvp.", 1, 100)
    flow_hidden: tuple[int, ...] = _flag(
        (300, 300), "Units of the hidden layers of each flow's network.", 1, MAX_WIDTH
    )
    tau_gate_bias: float | None = _flag(
        None,
        "Gives tau a sigmoid gate toward q(psi) whose bias starts here (such as -5: tau "
        "starts at the prior). Default: no gate.",
        -1e3,
        1e3,
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained."""

    epochs: int = _flag(
        20,
        "Epochs of training; may be raised later to go on with a finished run. The "
        "default ends in about ten minutes on 2 cores at K=50.",
        1,
        MAX_EPOCHS,
    )
    batch_size: int = _flag(256, "Images per step.", 1, MAX_COUNT)
    learning_rate: float = _flag(
        2e-3, "Adam's step size at epoch 0. The published recipes start at 1e-3.", 0.0
    )
    annealing_factor: float = _flag(
        0.95, "The step size is multiplied by this every --annealing_epochs.", 1e-9, 1.0
    )
    annealing_epochs: float = _flag(100.0, "Epochs per factor of --annealing_factor.", 1e-9)
    K_schedule: str = _flag(
        "",
        "K against the epoch as epoch:K pairs, such as 0:0,250:5,500:25,1000:50. "
        "Default: --K throughout.",
    )
    inner_warmup_epochs: float = _flag(
        0.0, "Epochs over which log q(psi) - log tau is phased in.", 0.0
    )
    outer_warmup_epochs: float = _flag(
        0.0, "Epochs over which log p(z) - log q(z|x) is phased in.", 0.0
    )
    seed: int = _flag(0, "The one seed from which every draw is folded.", 0, 2**31 - 1)
    checkpoint_every: int = _flag(1, "Epochs between checkpoints.", 1, MAX_EPOCHS)
    eval_every: int = _flag(
        1, "Epochs between validations, which also choose the best checkpoint.", 1, MAX_EPOCHS
    )
    jit_compile: str = _flag(
        "auto",
        "XLA for the forward and backward pass: on, off, or auto (on with a GPU). Part "
        "of a run's identity: on and off draw different numbers.",
    )
    steps_per_call: int = _flag(
        10, "Training steps per call of the compiled loop; more means less host work.", 1, MAX_COUNT
    )
    tau_epochs: int = _flag(7_000, "Epochs of --mode=fit_tau.", 1, MAX_EPOCHS)
    frozen: str = _flag("", None)  # of a fit_tau run: the checkpoint whose p and q it keeps


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The final score. The published one is M=5000, K=100 of DIWHVI."""

    estimator: str = _flag(
        "auto",
        "What bounds log p(x): auto (the trained bound's own), the name of a bound, such as "
        "sivi-equicomp for a run of iwhvi, or ais (annealed importance sampling).",
    )
    eval_M: int = _flag(100, "Draws of z in the evaluation.", 1, MAX_EVAL_COUNT)
    eval_K: int = _flag(
        20, "Draws of psi per z in the evaluation, where q is hierarchical.", 0, MAX_EVAL_COUNT
    )
    eval_L: int = _flag(
        20, "Draws of zeta per z in the evaluation, where p(z) is hierarchical.", 1, MAX_EVAL_COUNT
    )
    eval_images: int = _flag(10_000, "Test images evaluated, the first ones of the split.", 1)
    ais_chains: int = _flag(16, "Chains per image of --estimator=ais.", 1, MAX_COUNT)
    ais_steps: int = _flag(1_000, "Temperatures of --estimator=ais.", 1, MAX_EVAL_COUNT)
    ais_leapfrog_steps: int = _flag(5, "Leapfrog steps per temperature.", 1, MAX_COUNT)
