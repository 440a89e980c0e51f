"""Rules of a configuration: ranges, choices, and settings that contradict each other."""

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
    EvaluationConfig,
    SavedModelConfig,
    kind,
)
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS

if TYPE_CHECKING:
    from hvi_tf.config.config import Config


def check(config: "Config", fields: list[dataclasses.Field], values: dict[str, Any]) -> None:
    """Raises `UserError` at the first setting that is wrong, or that others contradict.

    Args:
        config: a configuration with the defaults of its method filled in.
        fields: the fields of all its sections, with their metadata.
        values: values of these fields.
    """
    for field in fields:
        value = values[field.name]
        left_out = value is None and field.default is None
        if field.metadata["low"] is not None and not left_out:
            for number in value if isinstance(value, tuple) else (value,):
                _check_number(field, number)
    for field in fields:
        value, choices = values[field.name], field.metadata["choices"]
        if kind(field) is tuple and not value:
            raise UserError(f"--{field.name}=: give at least one layer, such as 300,300")
        if choices and value not in choices:
            listed = ", ".join(choices[:-1])
            raise UserError(f"--{field.name}={value}: choose {listed} or {choices[-1]}")
    _check_model(config)
    _check_training(config)
    _check_estimator(config)
    _check_k_schedule(config)


def _check_model(config: "Config") -> None:
    m, method = config.method, config.chosen_method
    even = [n for n in config.model.pixelcnn_kernels if n % 2 == 0]
    if even:
        raise UserError(f"--pixelcnn_kernels: {even[0]} is even; give odd numbers")
    posterior = m.posterior
    flow = posterior in ("iaf", "realnvp")
    if flow and m.gradient != "reparameterized":
        # A flow computes the density of its draws from their noise, not as a function of z.
        raise UserError(
            f"--gradient={m.gradient}: --posterior={posterior} takes reparameterized only"
        )
    if flow and config.model.latent_dim < 2:
        raise UserError(
            f"--latent_dim=1: --posterior={posterior} conditions dimensions on others; give at "
            "least 2"
        )
    if method.zeta_is_psi_0 and config.model.prior_dim != config.model.aux_dim:
        raise UserError(
            f"--prior_dim={config.model.prior_dim}: --bound={m.bound} takes psi for zeta, so "
            f"it must be --aux_dim={config.model.aux_dim}"
        )


def _check_training(config: "Config") -> None:
    m, t = config.method, config.training
    if m.encoder_objective == "kl" and m.posterior != "gaussian":
        raise UserError(
            f"--encoder_objective=kl: --posterior={m.posterior} has no closed form of the KL; "
            "choose elbo"
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


def _check_estimator(config: "Config") -> None:
    name, method = config.evaluation.estimator, config.chosen_method
    if name in ("auto", "ais"):
        return
    if name not in METHODS:
        raise UserError(
            f"--estimator={name}: unknown; choose auto, ais or one of {', '.join(METHODS)}"
        )
    wanted = methods.look_up(name)
    if wanted.refines:  # SVI refines the proposal of any run.
        return
    fits = (
        wanted.hierarchical == method.hierarchical
        and (method.has_tau or not wanted.has_tau)
        and (not wanted.psi_from_prior or method.psi_from_prior)
        and (not wanted.needs_hierarchical_prior or config.method.prior == "hierarchical")
        and (method.has_rho or not wanted.has_rho)
    )
    if not fits:
        hint = "; first --mode=fit_tau" if wanted.has_tau and method.hierarchical else ""
        if method.hierarchical and not wanted.hierarchical:
            hint = ", whose q(z|x) is hierarchical; choose diwhvi"
        raise UserError(f"--estimator={name}: not for a run of --bound={method.name}{hint}")


def check_saved_model(
    asked: SavedModelConfig, mode: str, strategy: str, given: Collection[str]
) -> None:
    """Raises `UserError` if another flag contradicts `--saved_model`.

    Args:
        asked: the flags of a SavedModel.
        mode: the command's mode.
        strategy: the command's strategy.
        given: names of the settings on the command line.
    """
    flag = f"--saved_model={asked.saved_model}"
    if not asked.saved_model:
        if asked.trust_saved_model:
            raise UserError("--trust_saved_model: needs --saved_model; name it, or leave this out")
        return
    check_text("saved_model", asked.saved_model)
    if mode != "evaluate":
        raise UserError(f"{flag}: for --mode=evaluate, not --mode={mode}; leave it out")
    if strategy != "one":
        raise UserError(f"{flag}: scored on one device; leave out --strategy={strategy}")
    for field in dataclasses.fields(EvaluationConfig):
        if field.name in given and not field.metadata["saved_model"]:
            raise UserError(
                f"--{field.name}: {flag} is scored by its own log_weights; leave it out"
            )


def _check_k_schedule(config: "Config") -> None:
    text, m = config.training.K_schedule, config.method
    largest = m.K
    if text:
        if not config.chosen_method.K.free:
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
    scored = config.chosen_method.psi_per_z(Counts(1, m.M))  # psi per z for each of K
    rows = max((largest * scored + 1) * m.M, m.L * m.M) * batch
    if rows > MAX_ROWS:
        raise UserError(
            f"--K={largest} --M={m.M} --L={m.L} --batch_size={batch}: {rows} rows in one step; "
            f"keep (K+1)*M*batch_size and L*M*batch_size at or below {MAX_ROWS}"
        )


def check_text(name: str, text: str) -> None:
    """Raises `UserError` for a text that no file system and no C library accepts."""
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
    if "://" in text or re.match("[a-z0-9]{2,}:/", text):  # pathlib.Path drops one slash
        raise UserError(
            f"{label}={text}: is a URL; name a path on this machine, such as the place where it "
            "is mounted"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{label}={text}: {error}; name another") from None


def _check_number(field: dataclasses.Field, value: Any) -> None:
    low, high = field.metadata["low"], field.metadata["high"]
    whole = kind(field) in (int, tuple)
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        noun = "a whole number" if whole else "a number"
        shows_upper = high < MAX_NUMBER or (is_number and value > high)
        upper = f" and at most {high}" if shows_upper else ""
        raise UserError(f"--{field.name}={value}: must be {noun}, at least {low}{upper}")
