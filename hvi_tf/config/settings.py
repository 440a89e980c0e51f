"""The settings of a run by section; each field carries the help text of its flag.

So the flags, their defaults and the stored configuration cannot drift apart.
"""

import dataclasses
from typing import Any

from hvi_tf.inference.methods import METHODS, MIXTURE_SIZE

# Far above any use, far below what would exhaust a machine by a slip of the keyboard.
MAX_COUNT = 100_000
MAX_EVAL_COUNT = 10_000_000
MAX_EPOCHS = 10_000_000
MAX_STEPS = 10**12
MAX_ROWS = 2_000_000  # (K + 1) * M * batch, rows of the conditional network in a step
MAX_WIDTH = 100_000
# Of any number: float32 ends at 3.4e38, and the inverse of 1e38 is 0 in it, by which Keras clips.
MAX_NUMBER = 1e37

# Of the inner SVI loop, per image; chosen by measurement (docs/bsvi.md).
DEFAULT_SVI_LEARNING_RATE = 0.1


def _flag(
    default: Any, help_text: str | None, low: float | None = None, high: float = MAX_NUMBER
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
        "Data set: mnist (in the package), fashion_mnist, omniglot (28x28, Burda et al.) or "
        "svhn (32x32, gray).",
    )
    split: str = _flag(
        "sobolev",
        "Which training images are held out for validation: sobolev (5,000; not for svhn), "
        "shu (2,000 at random), and for omniglot also burda (1,345 at random).",
    )
    split_seed: int = _flag(
        2015,
        "Which images --split=shu or burda draws. Not --seed: runs of several seeds share a split.",
        0,
        2**31 - 1,
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
        "Draws of psi besides psi_0 in validation, and in training where --K_schedule is empty "
        "(by default iwhvi and diwhvi train at K=1). Default: 50 where the bound has a K.",
        0,
        MAX_COUNT,
    )
    M: int = _flag(
        None,
        "Draws of z. Default: 5 for iwae, diwhvi, diwhvi-mixture, sivi-equicomp and "
        "sivi-equisample, 1 for the others.",
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
        "Gradient estimator: reparameterized (default, but gdreg for iwhvi and diwhvi, dreg for "
        "diwhvi-mixture); dreg = doubly reparameterized for tau (Sobolev & Vetrov 2019, eq 9); "
        "gdreg = for tau, q and rho; iwae-dreg = for an explicit q; stl = q's path only; "
        "dreg-biased = for study only.",
    )
    backward_samples: int = _flag(
        0,
        "S: the gradient goes back through psi_0's term and S of the K others, drawn in proportion "
        "to their weights, and through S of the M draws of z. Unbiased, and faster where S is far "
        "below K. 0: through all.",
        0,
        MAX_COUNT,
    )
    defensive: float = _flag(
        0.0,
        "Share of q(psi|x) in the mixture from which diwhvi-mixture draws psi. If positive, the "
        "weights are bounded.",
        0.0,
        0.99,
    )
    prior: str = _flag(
        None,
        "p(z): normal, or hierarchical (a mixture with networks p(z|zeta) and rho(zeta|z)). "
        "Default: normal, but hierarchical for dsivi and joint.",
    )
    posterior: str = _flag(
        "gaussian",
        "Explicit q(z|x) of vae, iwae, svi and bsvi: gaussian, or that followed by flows: iaf or "
        "realnvp. svi and bsvi also take hierarchical: q and tau of iwhvi, refined for each x.",
    )
    svi_steps: int = _flag(
        None,
        "Steps k of the inner SVI loop of svi (default 10) and bsvi (9: a buffer of 10).",
        1,
        MAX_COUNT,
    )
    svi_learning_rate: float = _flag(
        DEFAULT_SVI_LEARNING_RATE,
        "Learning rate of the inner loop, on the ELBO of one image. A loop on the mean of 50 "
        "images at rate 1 is one at 0.02 here.",
        0.0,
    )
    svi_momentum: float = _flag(0.5, "Momentum of the inner loop.", 0.0, 0.999)
    svi_clip_norm: float = _flag(
        1.0, "Largest gradient norm of one image in the inner loop; 0 does not clip.", 0.0
    )
    pi: str = _flag(
        "uniform",
        "Weights of bsvi's proposals: uniform, or learned (k+1 logits that all images share).",
    )
    sir: bool = _flag(
        False,
        "bsvi: the gradient of p(x,z) from one proposal, drawn in proportion to its weight "
        "(sampling importance resampling), in place of all k+1.",
    )
    double_sampling: bool = _flag(
        False, "bsvi: a draw of its own drives each step of SVI; the buffer has another."
    )
    encoder_objective: str = _flag(
        "elbo",
        "svi, bsvi: what trains the encoder: elbo (at its own output), or kl (from that to the "
        "refined Gaussian).",
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
    scale: str = _flag(
        None,
        "What the encoder's output for the scale of q(z|.) is: softplus (its inverse), or "
        "log_variance. Default: log_variance for svi and bsvi, softplus for the others.",
    )
    likelihood: str = _flag(
        "bernoulli",
        "p(x|z) of a pixel: bernoulli (images are binarized at every visit), or "
        "discretized_logistic (the 256 levels of 8-bit images).",
    )
    encoder: str = _flag("mlp", "Encoder: mlp, or resnet (square images).")
    resnet_channels: tuple[int, ...] = _flag(
        (64, 64, 64),
        "Channels of the stages of --encoder=resnet; each stage halves the image.",
        1,
        MAX_WIDTH,
    )
    decoder: str = _flag("mlp", "Decoder: mlp, or pixelcnn (autoregressive, square images).")
    pixelcnn_channels: int = _flag(32, "Channels of --decoder=pixelcnn.", 1, MAX_WIDTH)
    pixelcnn_kernels: tuple[int, ...] = _flag(
        (9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3),
        "Kernel sizes of the layers of --decoder=pixelcnn; odd numbers.",
        3,
        99,
    )
    tau_gate_bias: float | None = _flag(
        None,
        "Gives tau a sigmoid gate toward q(psi) whose bias starts here (such as -5: tau "
        "starts at the prior). Default: no gate.",
        -1e3,
        1e3,
    )
    precision: str = _flag(
        "float32",
        "Of the factors of the networks' matrix products and convolutions: float32, or bfloat16, "
        "faster where the hardware has it. Parameters, densities and sums are float32 in any case.",
    )


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """What this command runs on: no part of a run, which may go on elsewhere."""

    devices: str = _flag(
        "", "Devices to use, such as cpu, gpu, or gpu:0,gpu:1. Default: every GPU, else the CPU."
    )
    memory_growth: bool = _flag(
        True, "Takes a GPU's memory as it is needed; TensorFlow otherwise takes all of it at once."
    )
    device_report: bool = _flag(
        False, "Prints devices, threads, XLA and precision before anything is computed."
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained."""

    epochs: int = _flag(
        22,
        "Epochs of training. A finished run goes on with more of them, unless a schedule ends with "
        "the run. The default of iwhvi ends in ten minutes on 2 cores.",
        1,
        MAX_EPOCHS,
    )
    minutes: float = _flag(
        0.0,
        "Plans the epochs of a new run, in place of --epochs: as many as take so many minutes on "
        "this machine, by the speed of its first steps. The score comes after them. 0: no plan.",
        0.0,
        1e7,
    )
    max_steps: int = _flag(
        0, "Ends training after this many steps, though epochs may be left; 0: never.", 0, MAX_STEPS
    )
    patience: int = _flag(
        0,
        "Ends training after this many epochs without a better validation bound; 0: never. "
        "The best checkpoint is what is evaluated in any case.",
        0,
        MAX_EPOCHS,
    )
    batch_size: int = _flag(
        128, "Images per step. The recipes of the IWHVI paper have 256.", 1, MAX_COUNT
    )
    optimizer: str = _flag("adam", "Optimizer of the networks: adam, amsgrad or adamw.")
    weight_decay: float = _flag(
        0.004,
        "Decay of the weights under --optimizer=adamw: each step takes this times the learning "
        "rate off them. Biases do not decay.",
        0.0,
    )
    clip_norm: float = _flag(
        100.0,
        "Largest norm of the gradient of all networks together, to which a larger one is scaled "
        "down. Only a step that would spoil a run exceeds the default. 0: no limit.",
        0.0,
    )
    learning_rate: float = _flag(
        4e-3, "Adam's largest step size. The published recipes start at 1e-3.", 0.0
    )
    lr_schedule: str = _flag(
        "cosine",
        "How the learning rate falls: exponential (by --annealing_factor, without end), or cosine "
        "or linear (to --lr_final_fraction at the last of --epochs).",
    )
    lr_final_fraction: float = _flag(
        0.0, "Where --lr_schedule=cosine|linear ends, as a part of --learning_rate.", 0.0, 1.0
    )
    lr_warmup_steps: int = _flag(
        200, "Steps over which the learning rate first rises from 0.", 0, MAX_STEPS
    )
    ema_decay: float = _flag(
        0.0,
        "Averages the weights over steps, with this weight on the average so far, such as 0.999; "
        "the averages are what is validated, scored and exported. 0: no averages.",
        0.0,
        0.999999,
    )
    annealing_factor: float = _flag(
        0.95,
        "Under --lr_schedule=exponential the step size is multiplied by this every "
        "--annealing_epochs.",
        1e-9,
        1.0,
    )
    annealing_epochs: float = _flag(100.0, "Epochs per factor of --annealing_factor.", 1e-9)
    K_schedule: str = _flag(
        None,
        "K against the epoch as epoch:K pairs, such as 0:0,250:5,500:25,1000:50, or against the "
        "part of the run's epochs, such as 0%:5,80%:50. Empty: --K throughout. Default: 0:1 for "
        "iwhvi and diwhvi without --backward_samples, where K=1 gains more than K=5 in a few "
        "minutes; --K throughout for the others.",
    )
    inner_warmup_epochs: float = _flag(
        0.0, "Epochs over which log q(psi) - log tau is phased in.", 0.0
    )
    outer_warmup_epochs: float = _flag(
        0.0, "Epochs over which log p(z) - log q(z|x) is phased in.", 0.0
    )
    kl_annealing_steps: int = _flag(
        0,
        "Training steps over which the weight of log p(z) - log q(z|x) rises to 1, in the inner "
        "SVI loop too; 0: none. Validation and test always have 1.",
        0,
        MAX_STEPS,
    )
    kl_annealing_start: float = _flag(0.1, "That weight at step 0.", 0.0, 1.0)
    inner_free_bits: float = _flag(
        0.0,
        "Drops log q(psi) - log tau from steps whose batch has KL(tau||q(psi)) below this many "
        "nats. Validation and test keep it.",
        0.0,
    )
    outer_free_bits: float = _flag(
        0.0,
        "Drops log p(z) - log q(z|x) from steps whose batch has KL(q(z|x)||p(z)) below this many "
        "nats. Validation and test keep it.",
        0.0,
    )
    tau_steps: int = _flag(
        0,
        "Steps of tau alone after each step of all networks, on the same images with new draws. "
        "One whose gradient is not finite is left out.",
        0,
        MAX_COUNT,
    )
    seed: int = _flag(0, "The one seed from which every draw is folded.", 0, 2**31 - 1)
    checkpoint_every: int = _flag(1, "Epochs between checkpoints.", 1, MAX_EPOCHS)
    keep_checkpoints: int = _flag(
        3, "Newest checkpoints that are kept; an older one only tides over damage.", 1, MAX_COUNT
    )
    keep_every: int = _flag(
        0, "Keeps also the checkpoint of every so many epochs, for good; 0: none.", 0, MAX_EPOCHS
    )
    on_nonfinite: str = _flag(
        "stop",
        "What to do with a step whose loss, gradient or weights are not finite, once it is dumped "
        "into the workdir: stop; skip (leave the weights as they are); or rollback (take those of "
        "the last checkpoint, and go on behind that step).",
    )
    eval_every: int = _flag(
        1, "Epochs between validations, which also choose the best checkpoint.", 1, MAX_EPOCHS
    )
    jit_compile: str = _flag(
        "auto",
        "XLA for the training step and the scores: on, off, or auto (on with a GPU; without one "
        "where ten epochs or more of dense layers repay the compilation). Part of a run's "
        "identity: on and off draw different numbers.",
    )
    steps_per_call: int = _flag(
        10, "Training steps per call of the compiled loop; more means less host work.", 1, MAX_COUNT
    )
    tau_epochs: int = _flag(
        7_000, "Epochs of a later --mode=fit_tau, unless that command names others.", 1, MAX_EPOCHS
    )
    frozen: str = _flag("", None)  # of a fit_tau run: the checkpoint whose p and q it keeps

    @property
    def decays_to_the_end(self) -> bool:
        """Whether the learning rate falls until the last epoch, wherever that is."""
        return self.lr_schedule in ("cosine", "linear")

    @property
    def plans_to_the_end(self) -> bool:
        """Whether a schedule depends on how many epochs the run has."""
        return self.decays_to_the_end or "%" in (self.K_schedule or "")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The final score. The published one is M=5000, K=100 of DIWHVI."""

    estimator: str = _flag(
        "auto",
        "What bounds log p(x): auto (the trained bound's own), the name of a bound, such as "
        "sivi-equicomp for a run of iwhvi, or bsvi or svi for any run, or ais (annealed "
        "importance sampling).",
    )
    eval_steps: int = _flag(
        None,
        "Steps k of SVI of --estimator=bsvi|svi (default 500). With --estimator=iwae|diwhvi: the "
        "bounds of k, 2k, ..., 5k draws of z in one table.",
        1,
        MAX_EVAL_COUNT,
    )
    eval_M: int = _flag(
        100,
        "Draws of z in the evaluation; with --estimator=bsvi|svi, from the refined q(z|x).",
        1,
        MAX_EVAL_COUNT,
    )
    eval_tolerance: float = _flag(
        0.0,
        "Standard error, nats, that the score of an image should have: a pilot chooses how many "
        "draws of z it takes for each image, at most --eval_M. 0: --eval_M for all.",
        0.0,
        1e3,
    )
    eval_K: int = _flag(
        20,
        "Draws of psi in the evaluation, where q is hierarchical: for each z, or that z share.",
        0,
        MAX_EVAL_COUNT,
    )
    eval_defensive: float = _flag(
        0.0, "As --defensive, in the evaluation by diwhvi-mixture.", 0.0, 0.99
    )
    eval_mixture_size: int = _flag(
        MIXTURE_SIZE,
        "At most how many z share --eval_K psi in the evaluation by diwhvi-mixture; a larger M is "
        "split into groups. 0: all z share them.",
        0,
        MAX_EVAL_COUNT,
    )
    eval_L: int = _flag(
        20, "Draws of zeta per z in the evaluation, where p(z) is hierarchical.", 1, MAX_EVAL_COUNT
    )
    eval_split: str = _flag("test", "Whose images are evaluated: test, validation or train.")
    eval_images: int = _flag(
        10_000, "Images evaluated, the first ones of the split.", 1, MAX_EVAL_COUNT
    )
    eval_svi_learning_rate: float = _flag(
        0.02,
        "Learning rate of that loop, which is long enough for a smaller one than in training.",
        0.0,
    )
    num_samples: int = _flag(64, "Images that --mode=sample draws into one PNG file.", 1, 10_000)
    ais_chains: int = _flag(16, "Chains per image of --estimator=ais.", 1, MAX_COUNT)
    ais_steps: int = _flag(1_000, "Temperatures of --estimator=ais.", 1, MAX_EVAL_COUNT)
    ais_leapfrog_steps: int = _flag(5, "Leapfrog steps per temperature.", 1, MAX_COUNT)


@dataclasses.dataclass(frozen=True)
class SavedModelConfig:
    """The SavedModel that is scored in the place of a run's checkpoint.

    It is a program, so only the command line names one. These are no settings of a run: a
    config.json may be a stranger's, and may neither name a program nor trust it.
    """

    saved_model: str = _flag(
        "",
        "SavedModel that --mode=evaluate scores on the run's data, by its log_weights alone; a "
        "relative path begins at --workdir, whose own is saved_model.",
    )
    trust_saved_model: bool = _flag(
        False,
        "Loads a --saved_model that lies outside --workdir. A SavedModel is a program, which may "
        "read and write files: say so only of one whose origin you trust.",
    )


def field_names(section: type) -> tuple[str, ...]:
    """The names of a section's settings."""
    return tuple(field.name for field in dataclasses.fields(section))
