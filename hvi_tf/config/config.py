"""The configuration of a run: frozen, validated once, and stored as JSON in its workdir."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from hvi_tf.config import counts, relevance, rules, schedules, strict_json
from hvi_tf.config.settings import (
    SECTIONS,
    DataConfig,
    EvaluationConfig,
    MethodConfig,
    ModelConfig,
    TrainingConfig,
    field_names,
    kind,
)
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.methods import Method

# The key next to the sections in config.json that holds the provenance of the numbers.
PROVENANCE = "provenance"

# On a CPU, at K=1 and batch 128, XLA saves about a third of a step and compiles for half a minute.
_EPOCHS_THAT_REPAY_XLA, _STEPS_THAT_REPAY_XLA = 10, 4_000


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run.

    Build it with `make(bound="iwhvi", K=5)`, which validates the settings and fills in the
    defaults of the method.
    """

    data: DataConfig
    method: MethodConfig
    model: ModelConfig
    training: TrainingConfig
    evaluation: EvaluationConfig

    @property
    def chosen_method(self) -> Method:
        """The method, an entry of the METHODS table."""
        m = self.method
        return methods.look_up(m.bound, m.posterior, m.defensive)

    @property
    def k_steps(self) -> tuple[tuple[int, int], ...]:
        """Pairs of an epoch and the K from this epoch on."""
        t = self.training
        return schedules.parse_steps(t.K_schedule or f"0:{self.method.K}", t.epochs)

    def schedule(self, epoch: int) -> schedules.ScheduleValues:
        """Returns the values of all schedules at `epoch`."""
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
        """Returns JSON with one object per section; `from_json` is the inverse."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> "Config":
        """Builds a configuration from the text that `to_json` returns.

        Raises:
            UserError: if a section or field is unknown or invalid.
            ValueError: if the text is not JSON.
        """
        sections = strict_json.parse(text)
        if not isinstance(sections, dict):
            raise UserError("the configuration has no sections")
        values: dict[str, Any] = {}
        for name, section in sections.items():
            if name == PROVENANCE:
                continue
            if name not in SECTIONS:
                raise UserError(f"unknown section {name!r} in the configuration")
            if not isinstance(section, dict):
                raise UserError(f"section {name!r} of the configuration holds no settings")
            values.update(section)
        return _checked(values)


def fields() -> list[dataclasses.Field]:
    """Returns the fields of all sections, in the order of config.json."""
    return [f for section in SECTIONS.values() for f in dataclasses.fields(section)]


def parse(name: str, text: str) -> Any:
    """Returns the value of a setting from its text in a flagfile; an empty text means true."""
    (field,) = (f for f in fields() if f.name == name)
    type_ = kind(field)
    if type_ is tuple:
        return [int(number) for number in text.split(",")]
    if type_ is bool:
        return text in ("", "true")
    return type_(text)


def make(**values: Any) -> Config:
    """Builds and validates a configuration from flat field names.

    Counts that the method fixes, or that are left out, take the value of the method.

    Raises:
        UserError: if a setting is wrong, or would change nothing. The message names the flag,
            its value and an allowed value.
    """
    return derive({}, **values)


def derive(base: Mapping[str, Any], **given: Any) -> Config:
    """Builds a configuration from the settings of `base`, replaced by `given` ones.

    Settings of `base` may change nothing. Such settings of the evaluation take their defaults.

    Raises:
        UserError: if a given setting is wrong, or would change nothing.
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
    """Builds the configuration of a run for scoring a SavedModel on its data.

    The SavedModel may come from another run, so settings that change nothing in this run may
    change its score, and are allowed.

    Raises:
        UserError: if a setting is wrong.
    """
    return _checked({**base, **given})


def defaults() -> dict[str, Any]:
    """Returns the default of every setting by name; None where it depends on the method."""
    return {field.name: field.default for field in fields()}


def _checked(values: Mapping[str, Any]) -> Config:
    """Builds a configuration, and checks the range of each setting and contradictions."""
    values = dict(values)
    known = {f.name: f for f in fields()}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"unknown setting {name!r}")
        _check_kind(known[name], value)
        if kind(known[name]) is tuple:
            values[name] = tuple(value)
    config = Config(
        **{
            section: cls(**{name: values[name] for name in field_names(cls) if name in values})
            for section, cls in SECTIONS.items()
        }
    )
    config = dataclasses.replace(config, method=counts.resolve(config.method))
    if config.training.K_schedule is None:
        K_schedule = "0:1" if _trains_at_1(config) else ""
        training = dataclasses.replace(config.training, K_schedule=K_schedule)
        config = dataclasses.replace(config, training=training)
    if config.model.scale is None:
        scale = "log_variance" if config.chosen_method.refines else "softplus"
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, scale=scale))
    rules.check(config, fields(), flatten(config))
    return config


def _trains_at_1(config: Config) -> bool:
    """Returns whether K is 1 by default in training, which learns faster in a few minutes.

    This holds for methods that train a tau and draw psi for each z. With --backward_samples the
    default is K throughout.
    """
    method, m = config.chosen_method, config.method
    draws_for_each_z = method.trains_tau and not method.shares_psi
    return draws_for_each_z and method.K.free and m.K > 1 and not m.backward_samples


# Values that are no numbers; numbers are checked together with their range.
_NOUNS: dict[type, str] = {
    tuple: "whole numbers, such as 300,300",
    bool: "true or false",
    str: "text",
}


def _check_kind(field: dataclasses.Field, value: Any) -> None:
    """Raises `UserError` if a value has another type than its field."""
    wanted = kind(field)
    if wanted not in _NOUNS or (value is None and field.default is None):
        return
    if not isinstance(value, tuple | list if wanted is tuple else wanted):
        raise UserError(f"--{field.name}={value!r}: must be {_NOUNS[wanted]}")
    if isinstance(value, str):
        rules.check_text(field.name, value)


def flatten(config: Config) -> dict[str, Any]:
    """Returns all settings by name; `make(**flatten(c)) == c`."""
    return {
        f.name: getattr(getattr(config, section), f.name)
        for section, cls in SECTIONS.items()
        for f in dataclasses.fields(cls)
    }


def resolve_jit(config: Config, has_gpu: bool) -> Config:
    """Replaces `--jit_compile=auto` by on or off for this machine."""
    t = config.training
    if t.jit_compile != "auto":
        return config
    dense = config.model.encoder == "mlp" and config.model.decoder == "mlp"
    is_long = t.epochs >= _EPOCHS_THAT_REPAY_XLA
    if t.max_steps:
        is_long = is_long and t.max_steps >= _STEPS_THAT_REPAY_XLA
    repays = dense and is_long and not config.chosen_method.refines
    jit_compile = "on" if has_gpu or repays else "off"
    return dataclasses.replace(config, training=dataclasses.replace(t, jit_compile=jit_compile))
