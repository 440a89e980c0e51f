"""Settings that a run uses; a setting that would change nothing is refused.

Settings that are not listed here change every run.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from hvi_tf.config import estimators
from hvi_tf.config.settings import DataConfig, EvaluationConfig, field_names
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.methods import METHODS, Method

if TYPE_CHECKING:
    from hvi_tf.config.config import Config


class Use(NamedTuple):
    """Where a setting changes something.

    Attributes:
        applies: whether a configuration has a use for it.
        where: the flags of such a configuration, for the message.
    """

    applies: Callable[["Config"], bool]
    where: str


def _rows(applies: Callable[[Method], bool]) -> Use:
    """The rows of the table of methods for which `applies` is true."""
    names = [name for name, row in METHODS.items() if applies(row)]
    where = [f"--bound={'|'.join(names)}"] if names else []
    if not applies(METHODS["svi"]) and applies(methods.look_up("svi", "hierarchical")):
        where.append("--posterior=hierarchical")
    return Use(lambda config: applies(config.row), " or ".join(where))


def _network(kind: str, value: str) -> Use:
    return Use(lambda config: getattr(config.model, kind) == value, f"--{kind}={value}")


def _has_mlp(config: "Config") -> bool:
    model = config.model
    convolutional = model.encoder == "resnet" and model.decoder == "pixelcnn"
    return not convolutional or config.row.hierarchical or config.method.prior == "hierarchical"


def _has_more_terms(config: "Config") -> bool:
    """Whether a sum over k or m has more terms than `--backward_samples`."""
    method, row = config.method, config.row
    K = max(K for _, K in config.k_steps) * (method.M if row.shared == "MK" else 1)
    return row.takes_backward_samples and method.backward_samples < max(K, method.M)


def _anneals(config: "Config") -> bool:
    return not config.training.decays_to_the_end


_BACKWARD = _rows(lambda row: row.takes_backward_samples).where
_REFINES = _rows(lambda row: row.refines)
_BUFFER = _rows(lambda row: row.weights_proposals)
_FLOW = Use(lambda config: config.method.posterior in ("iaf", "realnvp"), "--posterior=iaf|realnvp")
_AIS = Use(estimators.anneals, "--estimator=ais")

USES: dict[str, Use] = {
    "backward_samples": Use(_has_more_terms, f"{_BACKWARD} with a --K or --M above it"),
    "svi_steps": _REFINES,
    "svi_learning_rate": _REFINES,
    "svi_momentum": _REFINES,
    "svi_clip_norm": _REFINES,
    "pi": _BUFFER,
    "sir": _BUFFER,
    "double_sampling": _BUFFER,
    "encoder_objective": _REFINES,
    "defensive": _rows(lambda row: row.mixes),
    "hidden": Use(
        _has_mlp, "--encoder=mlp, --decoder=mlp, a hierarchical q(z|x) or --prior=hierarchical"
    ),
    "aux_dim": _rows(lambda row: row.hierarchical),
    "prior_dim": Use(lambda config: config.method.prior == "hierarchical", "--prior=hierarchical"),
    "num_flows": _FLOW,
    "flow_hidden": _FLOW,
    "resnet_channels": _network("encoder", "resnet"),
    "pixelcnn_channels": _network("decoder", "pixelcnn"),
    "pixelcnn_kernels": _network("decoder", "pixelcnn"),
    "tau_gate_bias": _rows(lambda row: row.has_tau),
    "weight_decay": Use(lambda config: config.training.optimizer == "adamw", "--optimizer=adamw"),
    "lr_final_fraction": Use(
        lambda config: config.training.decays_to_the_end, "--lr_schedule=cosine|linear"
    ),
    "annealing_factor": Use(_anneals, "--lr_schedule=exponential"),
    "annealing_epochs": Use(
        lambda config: _anneals(config) and config.training.annealing_factor != 1,
        "--lr_schedule=exponential with an --annealing_factor below 1",
    ),
    "inner_warmup_epochs": _rows(lambda row: row.trains_tau),
    "inner_free_bits": _rows(lambda row: row.trains_tau),
    "outer_free_bits": _rows(lambda row: not row.refines),
    "tau_steps": _rows(lambda row: row.trains_tau),
    "tau_epochs": _rows(lambda row: row.hierarchical),
    "kl_annealing_steps": Use(
        lambda config: config.training.kl_annealing_start < 1, "a --kl_annealing_start below 1"
    ),
    "kl_annealing_start": Use(
        lambda config: config.training.kl_annealing_steps > 0, "--kl_annealing_steps above 0"
    ),
    "eval_steps": Use(estimators.takes_steps, "--estimator=bsvi|svi|iwae|diwhvi"),
    "eval_M": Use(
        estimators.takes_draws, "an estimator other than ais, and iwae|diwhvi without --eval_steps"
    ),
    "eval_tolerance": Use(
        lambda config: estimators.takes_draws(config) and not estimators.refines(config),
        "a bound like diwhvi or iwae without --eval_steps, whose draws of z it chooses",
    ),
    "eval_K": Use(estimators.draws_psi, "a bound that draws psi, such as --estimator=diwhvi"),
    "eval_defensive": Use(estimators.mixes, "--estimator=diwhvi-mixture"),
    "eval_mixture_size": Use(estimators.mixes, "--estimator=diwhvi-mixture"),
    "eval_L": Use(estimators.draws_zeta, "a bound that draws zeta, under --prior=hierarchical"),
    "eval_svi_learning_rate": Use(estimators.refines, "--estimator=bsvi|svi"),
    "ais_chains": _AIS,
    "ais_steps": _AIS,
    "ais_leapfrog_steps": _AIS,
}

# The modes of the command line that take a setting; those of training take any other.
_MODES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(field_names(DataConfig), ("train", "fit_tau", "evaluate", "export", "sample")),
    **dict.fromkeys(field_names(EvaluationConfig), ("train", "fit_tau", "evaluate")),
    "num_samples": ("sample",),
}


def unused(config: "Config", values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The settings that differ from their defaults and change nothing in this configuration."""
    return [
        name
        for name, use in USES.items()
        if values[name] != defaults[name] and not use.applies(config)
    ]


def refuse(name: str, value: Any) -> UserError:
    """The error of a setting that the configuration has no use for."""
    return UserError(
        f"--{name}={_shown(value)}: for {USES[name].where}; give that, or leave it out"
    )


def check_mode(mode: str, given: Mapping[str, Any], otherwise: Mapping[str, Any]) -> None:
    """Raises `UserError` if the command line has no use for a given setting in this mode.

    Args:
        mode: of the command line.
        given: the settings that the command line names.
        otherwise: the values that settings have without it: the run's own, or the defaults.
    """
    for name, value in given.items():
        modes = _MODES.get(name, ("train", "fit_tau"))
        if mode not in modes and value != otherwise[name]:
            raise UserError(
                f"--{name}={_shown(value)}: for --mode={'|'.join(modes)}, not --mode={mode}; "
                "leave it out"
            )
    if given.get("minutes") and "epochs" in given:
        raise UserError(
            f"--epochs={given['epochs']}: --minutes plans the epochs; leave one of them out"
        )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
