"""A fit of a new tau to a trained model, which gives any hierarchical q(z|x) a DIWHVI score.

Sobolev & Vetrov 2019, section 6.2: p and q are frozen, and tau alone maximizes the bound, that
is, minimizes U_K. Under a hierarchical prior, a new rho is fitted together with tau. The fit is a
run with its own workdir.
"""

from typing import Any

from hvi_tf.config import config as config_lib
from hvi_tf.config import relevance
from hvi_tf.config.config import Config
from hvi_tf.config.settings import EvaluationConfig, field_names
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE, make_vae
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training.checkpoints import Checkpoints

# Settings that may differ from those of the trained run; all others are kept.
_OWN_SETTINGS = {
    *("K", "L", "gradient", "tau_gate_bias", "tau_epochs", "minutes"),
    *("batch_size", "learning_rate"),
    *("annealing_factor", "annealing_epochs", "lr_schedule", "lr_final_fraction"),
    *("lr_warmup_steps", "ema_decay", "optimizer", "weight_decay"),
    *("seed", "checkpoint_every", "eval_every"),
    *("jit_compile", "steps_per_call", "data_dir", "manual_dir", "on_nonfinite"),
    *("keep_checkpoints", "keep_every"),
    *field_names(EvaluationConfig),
}


def fit_config(trained: Config, given: dict[str, Any]) -> Config:
    """Returns the configuration of a fit of tau to the model of `trained`.

    Args:
        trained: the configuration of the run with the frozen p and q.
        given: the flags of this command.

    Raises:
        UserError: if q(z|x) is explicit, or a flag would change the model.
    """
    if not trained.chosen_method.hierarchical:
        raise UserError(
            f"--mode=fit_tau: the run has --bound={trained.method.bound}, whose q(z|x) is explicit "
            "and needs no tau; evaluate it as it is"
        )
    for name in given:
        if name not in _OWN_SETTINGS:
            raise UserError(f"--{name}: --mode=fit_tau keeps the run's own; leave it out")
    base = config_lib.flatten(trained)
    relevance.check_mode("fit_tau", given, base)
    epochs = given.get("tau_epochs", trained.training.tau_epochs)
    fresh = {
        **dict(bound="iwhvi", K=None, M=None, L=None, gradient=None, epochs=epochs),
        **dict(K_schedule="", inner_warmup_epochs=0.0, outer_warmup_epochs=0.0),
        **dict(posterior="gaussian", svi_steps=None, pi="uniform", sir=False),
        **dict(double_sampling=False, encoder_objective="elbo", estimator="auto"),
        **dict(eval_steps=None, kl_annealing_steps=0, max_steps=0, patience=0),
        **dict(inner_free_bits=0.0, outer_free_bits=0.0, tau_steps=0, minutes=0.0, defensive=0.0),
    }
    return config_lib.derive(base | fresh, **given)


def load_trained(run: Workdir, x_dim: int) -> tuple[VAE, int]:
    """Returns the model of a run at its best checkpoint, and that checkpoint's step."""
    trained = make_vae(run.config, x_dim)
    return trained, Checkpoints(trained, run).restore_best()


def adopt(model: VAE, trained: VAE) -> None:
    """Copies the networks of p and q from `trained` to `model`; its inverse models stay new."""
    for name, layer in model.networks.items():
        if not layer.trainable:
            layer.set_weights(trained.networks[name].get_weights())
