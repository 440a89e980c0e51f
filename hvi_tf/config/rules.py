"""What a configuration may hold: defaults that depend on the method, ranges, contradictions."""

import dataclasses
import pathlib
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from hvi_tf.config import schedules
from hvi_tf.config.settings import (
    MAX_COUNT,
    MAX_NUMBER,
    MAX_ROWS,
    MethodConfig,
    SavedModelConfig,
)
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.methods import METHODS, Count, Method

if TYPE_CHECKING:
    from hvi_tf.config.config import Config

# Fields that hold several numbers.
TUPLES = ("hidden", "flow_hidden", "resnet_channels", "pixelcnn_kernels")

_CHOICES = {
    "jit_compile": ("auto", "on", "off"),
    "pi": ("uniform", "learned"),
    "encoder_objective": ("elbo", "kl"),
    "scale": ("softplus", "log_variance"),
    "likelihood": ("bernoulli", "discretized_logistic"),
    "encoder": ("mlp", "resnet"),
    "decoder": ("mlp", "pixelcnn"),
    "optimizer": ("adam", "amsgrad", "adamw"),
    "lr_schedule": ("exponential", "cosine", "linear"),
    "on_nonfinite": ("stop", "skip", "rollback"),
    "precision": ("float32", "bfloat16"),
}


def resolve(method: MethodConfig) -> MethodConfig:
    """Fills in what the method's row leaves to it."""
    if method.bound not in METHODS:
        raise UserError(f"--bound={method.bound}: unknown; choose one of {', '.join(METHODS)}")
    _validate_posterior(method)
    row = methods.look_up(method.bound, method.posterior)
    prior = method.prior or ("hierarchical" if row.needs_hierarchical_prior else "normal")
    if prior not in ("normal", "hierarchical"):
        raise UserError(f"--prior={prior}: choose normal or hierarchical")
    if prior == "normal" and row.needs_hierarchical_prior:
        raise UserError(f"--prior=normal: --bound={row.name} needs --prior=hierarchical")
    counts = {"K": row.K, "M": row.M, "L": row.L if prior == "hierarchical" else Count(1, False)}
    values: dict[str, Any] = {}
    for name, count in counts.items():
        given = getattr(method, name)
        if given is not None and not count.free and given != count.default:
            raise UserError(_fixed_count_message(name, given, row, prior))
        values[name] = count.default if given is None else given
    gradient = method.gradient or row.gradients[0]
    if gradient not in row.gradients:
        others = ", ".join(row.gradients)
        raise UserError(f"--gradient={gradient}: --bound={row.name} takes {others}")
    if row.refines and method.svi_steps is None:
        # The same number of draws: the refined one after 10 steps, or a buffer of 10.
        values["svi_steps"] = 10 if row.buffer == "last" else 9
    return dataclasses.replace(method, gradient=gradient, prior=prior, **values)


def _validate_posterior(m: MethodConfig) -> None:
    row, posterior = METHODS[m.bound], m.posterior
    known = ("gaussian", "iaf", "realnvp", "hierarchical")
    if posterior not in known:
        raise UserError(f"--posterior={posterior}: choose {', '.join(known[:-1])} or {known[-1]}")
    if posterior == "hierarchical" and not row.refines:
        hint = "leave --posterior out" if row.hierarchical else "choose --bound=iwhvi, svi or bsvi"
        raise UserError(f"--posterior=hierarchical: for --bound=svi and bsvi; {hint}")
    if posterior != "gaussian" and row.hierarchical:
        explicit = "|".join(r.name for r in METHODS.values() if not r.hierarchical)
        raise UserError(
            f"--posterior={posterior}: --bound={m.bound} has a hierarchical q(z|x); choose "
            f"--bound={explicit}, or leave --posterior out"
        )


def _fixed_count_message(name: str, given: int, row: Method, prior: str) -> str:
    if name == "L" and prior == "normal":
        return (
            f"--L={given}: the prior is explicit, so there is no zeta to draw; leave --L out, "
            "or choose --prior=hierarchical"
        )
    others = [m.name for m in METHODS.values() if getattr(m, name).free]
    fixed = getattr(row, name).default
    reason = "has no K" if name == "K" and not row.hierarchical else f"fixes {name}={fixed}"
    return (
        f"--{name}={given}: --bound={row.name} {reason}; leave --{name} out, or choose "
        f"--bound={'|'.join(others)}"
    )


def check(config: "Config", fields: list[dataclasses.Field], values: dict[str, Any]) -> None:
    """Raises `UserError` at the first setting that is wrong, or that others contradict.

    Args:
        config: with what its method leaves open filled in.
        fields: of all its sections, with their ranges.
        values: of these fields.
    """
    for field in fields:
        value = values[field.name]
        left_out = value is None and field.default is None
        if field.metadata["low"] is not None and not left_out:
            for number in value if isinstance(value, tuple) else (value,):
                _check_number(field, number)
    for name in TUPLES:
        if not values[name]:
            raise UserError(f"--{name}=: give at least one layer, such as 300,300")
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            listed = ", ".join(choices[:-1])
            raise UserError(f"--{name}={values[name]}: choose {listed} or {choices[-1]}")
    _validate_model(config)
    _validate_training(config)
    _validate_estimator(config)
    _validate_k_schedule(config)


def _validate_model(config: "Config") -> None:
    m, row = config.method, config.row
    even = [n for n in config.model.pixelcnn_kernels if n % 2 == 0]
    if even:
        raise UserError(f"--pixelcnn_kernels: {even[0]} is even; give odd numbers")
    posterior = m.posterior
    flow = posterior in ("iaf", "realnvp")
    if flow and m.gradient != "reparameterized":
        # A flow knows the density of its own draws by their noise, not as a function of z.
        raise UserError(
            f"--gradient={m.gradient}: --posterior={posterior} takes reparameterized only"
        )
    if flow and config.model.latent_dim < 2:
        raise UserError(
            f"--latent_dim=1: --posterior={posterior} conditions dimensions on others; give 2"
        )
    if row.zeta_is_psi_0 and config.model.prior_dim != config.model.aux_dim:
        raise UserError(
            f"--prior_dim={config.model.prior_dim}: --bound={m.bound} takes psi for zeta, so "
            f"it must be --aux_dim={config.model.aux_dim}"
        )


def _validate_training(config: "Config") -> None:
    m, t = config.method, config.training
    if m.encoder_objective == "kl" and m.posterior != "gaussian":
        raise UserError(
            f"--encoder_objective=kl: --posterior={m.posterior} has no closed form of it; choose "
            "elbo"
        )
    if 0 < t.patience < t.eval_every:
        raise UserError(
            f"--patience={t.patience}: fewer epochs than --eval_every={t.eval_every}; give at "
            "least as many, or 0"
        )
    if t.kl_annealing_steps and t.outer_warmup_epochs:
        raise UserError(
            f"--kl_annealing_steps={t.kl_annealing_steps}: --outer_warmup_epochs="
            f"{t.outer_warmup_epochs} is the same weight by epochs; choose one of them"
        )


def _validate_estimator(config: "Config") -> None:
    name, row = config.evaluation.estimator, config.row
    split = config.evaluation.eval_split
    if split not in ("test", "validation", "train"):
        raise UserError(f"--eval_split={split}: choose test, validation or train")
    if name in ("auto", "ais", "bsvi", "svi"):
        return
    if name not in METHODS:
        raise UserError(
            f"--estimator={name}: unknown; choose auto, ais or one of {', '.join(METHODS)}"
        )
    wanted = METHODS[name]
    fits = (
        wanted.hierarchical == row.hierarchical
        and (row.has_tau or not wanted.has_tau)
        and (not wanted.psi_from_prior or row.psi_from_prior)
        and (not wanted.needs_hierarchical_prior or config.method.prior == "hierarchical")
        and (row.has_rho or not wanted.has_rho)
    )
    if not fits:
        hint = "; first --mode=fit_tau" if wanted.has_tau and row.hierarchical else ""
        if name == "iwae" and row.hierarchical:
            hint = ", whose q(z|x) is hierarchical; choose diwhvi"
        raise UserError(f"--estimator={name}: not for a run of --bound={row.name}{hint}")


# What a SavedModel has settled for itself.
_OF_A_CHECKPOINT = (
    "estimator",
    "eval_steps",
    "eval_tolerance",
    "eval_L",
    "eval_svi_learning_rate",
    "eval_defensive",
    "eval_mixture_size",
    "ais_chains",
    "ais_steps",
    "ais_leapfrog_steps",
)


def check_saved_model(
    asked: SavedModelConfig, mode: str, strategy: str, given: Collection[str]
) -> None:
    """Raises `UserError` unless the other flags agree with `--saved_model`.

    Args:
        asked: the flags of a SavedModel.
        mode: of the command.
        strategy: of the command.
        given: the settings that the command line names.
    """
    flag = f"--saved_model={asked.saved_model}"
    if not asked.saved_model:
        if asked.trust_saved_model:
            raise UserError(
                "--trust_saved_model: of which --saved_model? name it, or leave this out"
            )
        return
    check_text("saved_model", asked.saved_model)
    if mode != "evaluate":
        raise UserError(f"{flag}: for --mode=evaluate, not --mode={mode}; leave it out")
    if strategy != "one":
        raise UserError(f"{flag}: scored on one device; leave out --strategy={strategy}")
    for name in _OF_A_CHECKPOINT:
        if name in given:
            raise UserError(f"--{name}: {flag} is scored by its own log_weights; leave it out")


def _validate_k_schedule(config: "Config") -> None:
    text, m = config.training.K_schedule, config.method
    largest = m.K
    if text:
        if not config.row.K.free:
            raise UserError(f"--K_schedule={text}: --bound={m.bound} fixes K={m.K}; leave it out")
        try:
            steps = schedules.parse_steps(text, config.training.epochs)
        except ValueError as error:
            raise UserError(
                f"--K_schedule={text}: {error}; write it like 0:0,250:5,500:25,1000:50 or "
                "0%:5,80%:50"
            ) from None
        for _, K in steps:
            if not 0 <= K <= MAX_COUNT:
                raise UserError(f"--K_schedule={text}: K={K} is not from 0 to {MAX_COUNT}")
        largest = max(m.K, *(K for _, K in steps))
    batch = config.training.batch_size
    scored = m.M if config.row.shared == "MK" else 1  # every z is scored at all M K psi
    rows = max((largest * scored + 1) * m.M, m.L * m.M) * batch
    if rows > MAX_ROWS:
        raise UserError(
            f"--K={largest} --M={m.M} --L={m.L} --batch_size={batch}: {rows} rows in one step; "
            f"keep (K+1)*M*batch_size and L*M*batch_size at or below {MAX_ROWS}"
        )


def check_text(name: str, text: str) -> None:
    """Raises `UserError` for a text that no file and no program beneath this one takes."""
    if re.search("[\0\ud800-\udfff]", text):
        raise UserError(f"--{name}={text!r}: must be UTF-8 without a NUL")


def local_path(label: str, text: str) -> pathlib.Path:
    """Returns the path that a flag or an argument names, with `~` for the home folder.

    Args:
        label: names the flag in messages, such as "--workdir".
        text: its value.

    Raises:
        UserError: for a URL, an unknown home, or a text that no file system takes.
    """
    check_text(label.removeprefix("--"), text)
    if "://" in text or re.match("[a-z0-9]{2,}:/", text):  # or as a pathlib.Path writes it
        raise UserError(
            f"{label}={text}: a URL, and only paths of this machine are used; mount it and "
            "name where it is mounted, or name a local path"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{label}={text}: {error}; name another") from None


def _check_number(field: dataclasses.Field, value: Any) -> None:
    low, high = field.metadata["low"], field.metadata["high"]
    whole = field.type is int or field.type == tuple[int, ...]
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        noun = "a whole number" if whole else "a number"
        in_doubt = high < MAX_NUMBER or (is_number and value > high)
        upper = f" and at most {high}" if in_doubt else ""
        raise UserError(f"--{field.name}={value}: must be {noun}, at least {low}{upper}")
