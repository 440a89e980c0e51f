"""The configuration of a run: frozen, validated once, and stored as JSON in its workdir."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any

from hvi_tf.config import relevance, schedules, strict_json
from hvi_tf.config import rules as validation
from hvi_tf.config.settings import (
    DataConfig,
    EvaluationConfig,
    MethodConfig,
    ModelConfig,
    TrainingConfig,
    field_names,
)
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.methods import Method

_SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "method": MethodConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}

# Beside them in the file of a run: where its numbers come from. No setting.
PROVENANCE = "provenance"

# What may change between two commands on one workdir without making another run of it.
_NOT_IDENTITY = {
    "data_dir",
    "manual_dir",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_every",
    "on_nonfinite",
    "steps_per_call",
    "tau_epochs",
    "max_steps",
    "patience",
    *field_names(EvaluationConfig),
}


# Settings that runs of version 0.1 did not have, and the values that stand for what it did.
_LATER = {
    "defensive": 0.0,
    "eval_defensive": 0.0,
    "eval_mixture_size": methods.MIXTURE_SIZE,
    "precision": "float32",
    "backward_samples": 0,
    "weight_decay": 0.004,
    "lr_schedule": "exponential",
    "lr_final_fraction": 0.0,
    "lr_warmup_steps": 0,
    "ema_decay": 0.0,
    "inner_free_bits": 0.0,
    "outer_free_bits": 0.0,
    "tau_steps": 0,
    "minutes": 0.0,
}


# On CPUs, where at K=1 and batch 128 XLA saves about a third of a step and takes half a minute.
_EPOCHS_THAT_REPAY_XLA, _STEPS_THAT_REPAY_XLA = 10, 4_000


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run.

    Build it with `make(bound="iwhvi", K=5)`: only that validates it and fills in what the
    method leaves open.
    """

    data: DataConfig
    method: MethodConfig
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    @property
    def row(self) -> Method:
        """The method's row of the table."""
        m = self.method
        return methods.look_up(m.bound, m.posterior, m.defensive)

    @property
    def k_steps(self) -> tuple[tuple[int, int], ...]:
        """Pairs of an epoch and the K that holds from it on."""
        t = self.training
        return schedules.parse_steps(t.K_schedule or f"0:{self.method.K}", t.epochs)

    def schedule(self, epoch: int) -> schedules.ScheduleValues:
        """The values of all schedules at `epoch`."""
        t = self.training
        factor = 1.0 if t.decays_to_the_end else t.annealing_factor
        return schedules.ScheduleValues(
            K=schedules.step_function(self.k_steps, epoch),
            inner=schedules.linear_warmup(epoch, t.inner_warmup_epochs),
            outer=schedules.linear_warmup(epoch, t.outer_warmup_epochs),
            learning_rate=schedules.exponential_decay(
                epoch, t.learning_rate, factor, t.annealing_epochs
            ),
        )

    def to_json(self) -> str:
        """JSON with one object per section; `from_json` is its inverse."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Config":
        """Reads what `to_json` wrote.

        Runs of earlier versions may hold settings that change nothing.

        Raises:
            UserError: if a section or field is unknown or invalid.
            ValueError: if the text is no JSON.
        """
        sections = strict_json.parse(text)
        if not isinstance(sections, dict):
            raise UserError("the configuration has no sections")
        values: dict[str, Any] = dict(_LATER)
        for name, section in sections.items():
            if name == PROVENANCE:
                continue
            if name not in _SECTIONS:
                raise UserError(f"unknown section {name!r} in the configuration")
            if not isinstance(section, dict):
                raise UserError(f"section {name!r} of the configuration holds no settings")
            values.update(section)
        return _checked(values)


def fields() -> list[dataclasses.Field]:
    """The fields of all sections, in the order of the help page."""
    return [f for section in _SECTIONS.values() for f in dataclasses.fields(section)]


def kind(field: dataclasses.Field) -> type:
    """What a field holds: tuple (of whole numbers), bool, int, float or str."""
    kinds = typing.get_args(field.type) or (field.type,)
    if tuple in (field.type, typing.get_origin(field.type)):
        return tuple
    return next(k for k in (bool, int, float, str) if k in kinds)


def parse(name: str, text: str) -> Any:
    """The value of a setting from the text of a flagfile; no text is true."""
    (field,) = (f for f in fields() if f.name == name)
    found = kind(field)
    if found is tuple:
        return [int(number) for number in text.split(",")]
    if found is bool:
        return text in ("", "true")
    return found(text)


def make(**values: Any) -> Config:
    """Builds and validates a configuration from flat field names.

    Counts that the method fixes, or that are left out, take the method's value.

    Raises:
        UserError: naming the flag, its value and what would do; also for a setting that would
            change nothing.
    """
    return derive({}, **values)


def derive(base: Mapping[str, Any], **given: Any) -> Config:
    """Builds a configuration with `given` settings in place of those of `base`.

    Settings of `base` may be without a use; those of its evaluation then take their defaults.

    Raises:
        UserError: as `make` does, for what is given.
    """
    values = {**base, **given}
    config = _checked(values)
    unused = relevance.unused(config, flatten(config), defaults())
    for name in unused:
        if name in given and given[name] != base.get(name):
            raise relevance.refuse(name, flatten(config)[name])
    dropped = set(unused).intersection(field_names(EvaluationConfig))
    if not dropped:
        return config
    return _checked({name: value for name, value in values.items() if name not in dropped})


def for_saved_model(base: Mapping[str, Any], **given: Any) -> Config:
    """Builds the configuration of a run whose data a SavedModel is scored on.

    The SavedModel may be of another run, so it has a use for settings that this run has not.

    Raises:
        UserError: as `make` does, but for the settings that the run does not use.
    """
    return _checked({**base, **given})


def defaults() -> dict[str, Any]:
    """The default of every setting; None where it depends on the method."""
    return {field.name: field.default for field in fields()}


def _checked(values: Mapping[str, Any]) -> Config:
    """Builds a configuration whose settings are in range and do not contradict each other."""
    values = dict(values)
    known = {f.name: f for f in fields()}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"unknown setting {name!r}")
        _check_kind(known[name], value)
    for name in validation.TUPLES:
        if name in values:
            values[name] = tuple(values[name])
    config = Config(
        **{
            section: cls(**{name: values[name] for name in field_names(cls) if name in values})
            for section, cls in _SECTIONS.items()
        }
    )
    config = dataclasses.replace(config, method=validation.resolve(config.method))
    if config.training.K_schedule is None:
        K_schedule = "0:1" if _trains_at_1(config) else ""
        training = dataclasses.replace(config.training, K_schedule=K_schedule)
        config = dataclasses.replace(config, training=training)
    if config.model.scale is None:
        scale = "log_variance" if config.row.refines else "softplus"
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, scale=scale))
    validation.check(config, fields(), flatten(config))
    return config


def _trains_at_1(config: Config) -> bool:
    """Whether the default schedule of K is K=1, which learns faster than K=5 in a few minutes.

    It is for rows with a tau of their own that draw psi for each z. With --backward_samples the
    default is K throughout.
    """
    row, m = config.row, config.method
    for_each_z = row.trains_tau and not row.shares_psi
    return for_each_z and row.K.free and m.K > 1 and not m.backward_samples


# What is no number; numbers are checked along with their range.
_NOUNS: dict[type, str] = {
    tuple: "whole numbers, such as 300,300",
    bool: "true or false",
    str: "text",
}


def _check_kind(field: dataclasses.Field, value: Any) -> None:
    """Raises `UserError` if a value is of another kind than its field holds."""
    wanted = kind(field)
    if wanted not in _NOUNS or (value is None and field.default is None):
        return
    if not isinstance(value, tuple | list if wanted is tuple else wanted):
        raise UserError(f"--{field.name}={value!r}: must be {_NOUNS[wanted]}")
    if isinstance(value, str):
        validation.check_text(field.name, value)


def differences(old: Config, new: Config) -> list[str]:
    """The fields that make `new` another run than `old`, as `--name: old -> new`.

    More epochs make the same run, continued, unless its schedules end with the run.
    """
    before, after = flatten(old), flatten(new)
    continues = old.training.epochs < new.training.epochs and not old.training.plans_to_the_end
    ends = " (a schedule ends with the run)" if old.training.plans_to_the_end else ""
    return [
        f"--{name}: {before[name]} -> {after[name]}{ends if name == 'epochs' else ''}"
        for name in before
        if before[name] != after[name]
        and name not in _NOT_IDENTITY
        and not (name == "epochs" and continues)
    ]


def with_stored_unused(config: Config, stored: Config) -> Config:
    """Returns `config` with the stored values of the settings that change nothing in it.

    Earlier versions accepted and stored such settings. They remain a part of the run's identity.
    """
    values = flatten(stored)
    kept = set(relevance.unused(config, values, defaults())) - _NOT_IDENTITY
    return _checked(flatten(config) | {name: values[name] for name in kept})


def flatten(config: Config) -> dict[str, Any]:
    """All settings by their flag names; `make(**flatten(c)) == c`."""
    return {
        f.name: getattr(getattr(config, section), f.name)
        for section, cls in _SECTIONS.items()
        for f in dataclasses.fields(cls)
    }


def resolve_jit(config: Config, has_gpu: bool) -> Config:
    """Replaces `--jit_compile=auto` by what it means on this machine."""
    t = config.training
    if t.jit_compile != "auto":
        return config
    dense = config.model.encoder == "mlp" and config.model.decoder == "mlp"
    is_long = t.epochs >= _EPOCHS_THAT_REPAY_XLA
    if t.max_steps:
        is_long = is_long and t.max_steps >= _STEPS_THAT_REPAY_XLA
    repays = dense and is_long and not config.row.refines
    jit_compile = "on" if has_gpu or repays else "off"
    return dataclasses.replace(config, training=dataclasses.replace(t, jit_compile=jit_compile))


def with_digest(config: Config, digest: str) -> Config:
    """The configuration of a run on the file with this digest."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_digest=digest))


def fit_name(config: Config, step: int) -> str:
    """The folder of a fit to the model of this step: fits with other settings have others."""
    return f"fit_tau_step{step}_{identity_digest(config)[:8]}"


def identity_digest(config: Config) -> str:
    """The SHA-256 of what makes a run the run that it is, in hexadecimal.

    Settings that came after the first runs count where they changed what those did.
    """
    left_out = {*_NOT_IDENTITY, "jit_compile", "frozen"}
    if not config.training.plans_to_the_end:
        left_out.add("epochs")
    identity = {
        name: value
        for name, value in flatten(config).items()
        if name not in left_out and (name not in _LATER or value != _LATER[name])
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def with_frozen(config: Config, step: int) -> Config:
    """The configuration of a fit to the model of this training step."""
    training = dataclasses.replace(config.training, frozen=f"step {step}")
    return dataclasses.replace(config, training=training)
