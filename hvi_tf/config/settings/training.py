"""Settings of the training."""

import dataclasses
import functools

from hvi_tf.config.settings import uses
from hvi_tf.config.settings.fields import (
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_STEPS,
    Identity,
    setting,
)

_training = functools.partial(setting, section="Training")
_optimizer = functools.partial(setting, section="Optimizer")
_schedule = functools.partial(setting, section="Schedules of the bound")
_upkeep = functools.partial(setting, section="Checkpoints and speed", identity=Identity.NONE)


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The length of the training, its optimizer, schedules and checkpoints."""

    epochs: int = _training(
        22,
        "Epochs of training. A finished run continues when this number is raised, unless a "
        "schedule ends with the run. With the default, iwhvi ends in ten minutes on 2 cores.",
        1,
        MAX_EPOCHS,
        unit="epochs",
        main=True,
    )
    minutes: float = _training(
        0.0,
        "Plans the epochs of a new run, instead of --epochs: as many as fit into this many "
        "minutes on this machine, by the speed of its first steps. The score comes after them. "
        "0: no plan.",
        0.0,
        1e7,
        unit="minutes",
        neutral=0.0,
        main=True,
    )
    max_steps: int = _training(
        0,
        "Ends training after this many steps, even if epochs are left; 0: never.",
        0,
        MAX_STEPS,
        unit="steps",
        identity=Identity.NONE,
    )
    patience: int = _training(
        0,
        "Ends training after this many epochs without a better validation bound; 0: never. "
        "The best checkpoint is evaluated in both cases.",
        0,
        MAX_EPOCHS,
        unit="epochs",
        identity=Identity.NONE,
    )
    batch_size: int = _training(
        128,
        "Images per step. The recipes of the IWHVI paper have 256.",
        1,
        MAX_COUNT,
        unit="images",
        main=True,
    )
    optimizer: str = _optimizer(
        "adam",
        "Optimizer of the networks: adam, amsgrad or adamw.",
        choices=("adam", "amsgrad", "adamw"),
    )
    weight_decay: float = _optimizer(
        0.004,
        "Decay of the weights under --optimizer=adamw: each step subtracts this number times the "
        "learning rate times the weight. Biases do not decay.",
        0.0,
        neutral=0.004,
        use=uses.ADAMW,
    )
    clip_norm: float = _optimizer(
        100.0,
        "Largest norm of the gradient of all networks together; a larger gradient is scaled down "
        "to it. Only a step that would spoil a run exceeds the default. 0: no limit.",
        0.0,
    )
    learning_rate: float = _optimizer(
        4e-3, "Largest step size of Adam. The published recipes start at 1e-3.", 0.0, main=True
    )
    lr_schedule: str = _optimizer(
        "cosine",
        "Decay of the learning rate: exponential (by --annealing_factor, without end), or cosine "
        "or linear (to --lr_final_fraction at the last of --epochs).",
        choices=("exponential", "cosine", "linear"),
        neutral="exponential",
    )
    lr_final_fraction: float = _optimizer(
        0.0,
        "Last learning rate of --lr_schedule=cosine|linear, as a part of --learning_rate.",
        0.0,
        1.0,
        neutral=0.0,
        use=uses.DECAY_TO_THE_END,
    )
    lr_warmup_steps: int = _optimizer(
        200,
        "Steps over which the learning rate first rises from 0.",
        0,
        MAX_STEPS,
        unit="steps",
        neutral=0,
    )
    ema_decay: float = _optimizer(
        0.0,
        "Averages the weights over steps; the previous average has this weight, such as 0.999. "
        "The averages are validated, scored and exported. 0: no averages.",
        0.0,
        0.999999,
        neutral=0.0,
    )
    annealing_factor: float = _optimizer(
        0.95,
        "Factor of the learning rate every --annealing_epochs under --lr_schedule=exponential.",
        1e-9,
        1.0,
        use=uses.EXPONENTIAL_DECAY,
    )
    annealing_epochs: float = _optimizer(
        100.0,
        "Epochs per factor of --annealing_factor.",
        1e-9,
        unit="epochs",
        use=uses.FACTOR_BELOW_1,
    )
    K_schedule: str = _schedule(
        None,
        "K as a function of the epoch, in epoch:K pairs such as 0:0,250:5,500:25,1000:50, or of "
        "the part of the run, such as 0%:5,80%:50. Empty: --K throughout. Default: 0:1 for iwhvi "
        "and diwhvi without --backward_samples, where K=1 gains more than K=5 in a few minutes; "
        "--K throughout for the others.",
    )
    inner_warmup_epochs: float = _schedule(
        0.0,
        "Epochs over which log q(psi) - log tau is phased in.",
        0.0,
        unit="epochs",
        use=uses.TRAINED_TAU,
    )
    outer_warmup_epochs: float = _schedule(
        0.0, "Epochs over which log p(z) - log q(z|x) is phased in.", 0.0, unit="epochs"
    )
    kl_annealing_steps: int = _schedule(
        0,
        "Training steps over which the weight of log p(z) - log q(z|x) rises to 1, also in the "
        "inner SVI loop; 0: none. In validation and test the weight is 1.",
        0,
        MAX_STEPS,
        unit="steps",
        use=uses.KL_START_BELOW_1,
    )
    kl_annealing_start: float = _schedule(
        0.1, "Weight of log p(z) - log q(z|x) at step 0.", 0.0, 1.0, use=uses.KL_ANNEALING
    )
    inner_free_bits: float = _schedule(
        0.0,
        "Drops log q(psi) - log tau from steps in which the batch has KL(tau||q(psi)) below this "
        "number. Validation and test keep the term.",
        0.0,
        unit="nats",
        neutral=0.0,
        use=uses.TRAINED_TAU,
    )
    outer_free_bits: float = _schedule(
        0.0,
        "Drops log p(z) - log q(z|x) from steps in which the batch has KL(q(z|x)||p(z)) below "
        "this number. Validation and test keep the term.",
        0.0,
        unit="nats",
        neutral=0.0,
        use=uses.OUTER_TERM,
    )
    tau_steps: int = _training(
        0,
        "Steps of tau alone after each step of all networks, on the same images with new draws. "
        "A step whose gradient is not finite is left out.",
        0,
        MAX_COUNT,
        unit="steps",
        neutral=0,
        use=uses.TRAINED_TAU,
    )
    seed: int = _training(0, "Seed from which every draw is folded.", 0, 2**31 - 1, main=True)
    checkpoint_every: int = _upkeep(1, "Epochs between checkpoints.", 1, MAX_EPOCHS, unit="epochs")
    keep_checkpoints: int = _upkeep(
        3,
        "Number of latest checkpoints that are kept. Older ones serve if the latest is damaged.",
        1,
        MAX_COUNT,
    )
    keep_every: int = _upkeep(
        0,
        "Also keeps one checkpoint for every so many epochs, permanently; 0: none.",
        0,
        MAX_EPOCHS,
        unit="epochs",
    )
    on_nonfinite: str = _upkeep(
        "stop",
        "Reaction to a step whose loss, gradient or weights are not finite. The step is first "
        "dumped into the workdir. stop; skip (leave the weights as they are); or rollback (load "
        "the weights of the last checkpoint, and continue after that step).",
        choices=("stop", "skip", "rollback"),
    )
    eval_every: int = _training(
        1,
        "Epochs between validations, which also choose the best checkpoint.",
        1,
        MAX_EPOCHS,
        unit="epochs",
    )
    jit_compile: str = _upkeep(
        "auto",
        "XLA for the training step and the scores: on, off, or auto (on with a GPU; without one "
        "where ten epochs or more of dense layers repay the compilation). It belongs to the "
        "identity of a run, because on and off draw different numbers.",
        choices=("auto", "on", "off"),
        identity=Identity.COMPARED,
    )
    steps_per_call: int = _upkeep(
        10,
        "Training steps per call of the compiled loop; more means less work on the host.",
        1,
        MAX_COUNT,
        unit="steps",
    )
    tau_epochs: int = _training(
        7_000,
        "Epochs of a later --mode=fit_tau, unless that command names another number.",
        1,
        MAX_EPOCHS,
        unit="epochs",
        identity=Identity.NONE,
        use=uses.HIERARCHICAL,
    )
    # The checkpoint from which a fit_tau run takes its fixed p and q.
    frozen: str = _training("", None, identity=Identity.COMPARED)

    @property
    def decays_to_the_end(self) -> bool:
        """Whether the learning rate decays until the last epoch of the run."""
        return self.lr_schedule in ("cosine", "linear")

    @property
    def plans_to_the_end(self) -> bool:
        """Whether a schedule depends on the number of epochs of the run."""
        return self.decays_to_the_end or "%" in (self.K_schedule or "")
