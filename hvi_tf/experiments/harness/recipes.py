"""Training recipes for machines on which the published recipe takes too long."""

from typing import Any

from hvi_tf.config import config as config_lib
from hvi_tf.config import relevance
from hvi_tf.experiments.harness import trained
from hvi_tf.experiments.harness.experiment import Settings
from hvi_tf.inference import methods

# Every setting that a lever of nats-per-minute changes. A new default thus changes no recipe.
_PLAIN: Settings = dict(
    K_schedule="", optimizer="adam", weight_decay=0.004, lr_schedule="exponential",
    lr_final_fraction=0.0, lr_warmup_steps=0, ema_decay=0.0, inner_free_bits=0.0,
    outer_free_bits=0.0, tau_steps=0, backward_samples=0, jit_compile="off",
    annealing_factor=1.0, precision="float32", clip_norm=0.0,
    inner_warmup_epochs=0.0, outer_warmup_epochs=0.0,
)  # fmt: skip

# The previous defaults.
BEFORE: Settings = _PLAIN | dict(
    K=50, batch_size=256, gradient="reparameterized", learning_rate=2e-3,
    annealing_factor=0.95, annealing_epochs=100.0,
)  # fmt: skip

# The present defaults, the base of nats-per-minute.
BEST: Settings = _PLAIN | dict(
    K=50, K_schedule="0:1", batch_size=128, gradient="gdreg", learning_rate=4e-3,
    lr_schedule="cosine", lr_warmup_steps=200, clip_norm=100.0, jit_compile="on",
)  # fmt: skip

# For unattended nights on 2 cores. K rises late, because steps at a large K take longer.
LONG: Settings = BEST | dict(
    K_schedule="0%:1,30%:5,80%:20", steps_per_call=50, on_nonfinite="skip",
)  # fmt: skip
_CHECKPOINTS = 250  # in a long run, so that a kill loses only minutes


def long(flagfile: str, *, epochs: int, **changes: Any) -> Settings:
    """Returns the model and method of a published recipe with the training of `LONG`."""
    every = max(1, epochs // _CHECKPOINTS)
    length = dict(epochs=epochs, checkpoint_every=every, eval_every=every)
    return fitting(trained.recipe(flagfile) | LONG | length | changes)


def fitting(settings: Settings) -> Settings:
    """Returns the settings that their method uses, with its own form of DReG."""
    posterior = settings.get("posterior", "gaussian")
    method = methods.look_up(settings["bound"], posterior)
    kept = {n: v for n, v in settings.items() if n != "K" or method.K.free}
    if not method.K.free:
        kept.pop("K_schedule", None)
    gradient = kept.pop("gradient", None)
    if gradient in ("dreg", "gdreg") and not method.hierarchical:
        gradient = "iwae-dreg" if posterior == "gaussian" else None
    if method.refines:  # as --jit_compile=auto chooses
        kept["jit_compile"] = "off"
    if gradient in method.gradients:
        kept["gradient"] = gradient
    config = config_lib.derive(kept)
    unused = relevance.unused(config, config_lib.flatten(config), config_lib.defaults())
    return {name: value for name, value in kept.items() if name not in unused}
