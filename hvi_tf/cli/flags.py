"""Flags from the fields of the settings, and the values that a command line gives them."""

import dataclasses
from typing import Any

from absl import flags

from hvi_tf.config import config as config_lib
from hvi_tf.config.settings import CommandConfig, DeviceConfig, SavedModelConfig, kind
from hvi_tf.errors import UserError

FLAGS = flags.FLAGS

# Sections of one command, which config.json must not contain.
_COMMAND_SECTIONS = (CommandConfig, DeviceConfig, SavedModelConfig)


def setting_fields() -> list[dataclasses.Field]:
    """Returns the settings of a run that have a flag."""
    return [f for f in config_lib.fields() if f.metadata["help"]]


def by_name() -> dict[str, dataclasses.Field]:
    """Returns every setting with a flag by its name; those of one command come first."""
    of_command = [f for section in _COMMAND_SECTIONS for f in dataclasses.fields(section)]
    return {f.name: f for f in (*of_command, *setting_fields())}


def define() -> None:
    """Defines the flags of `hvi_tf.main`."""
    for field in setting_fields():
        _define_flag(field)
    for section in _COMMAND_SECTIONS:
        for field in dataclasses.fields(section):
            # No other rule checks the range of these.
            low, high = field.metadata["low"], field.metadata["high"]
            limits = {} if low is None else {"lower_bound": low, "upper_bound": high}
            _define_flag(field, **limits)


def _define_flag(field: dataclasses.Field, **limits: int) -> None:
    name, text = field.name, field.metadata["help"]
    match kind(field).__name__:
        case "tuple":
            flags.DEFINE_list(name, [str(number) for number in field.default], text)  # type: ignore
        case "bool":
            flags.DEFINE_boolean(name, field.default, text)
        case "int":
            flags.DEFINE_integer(name, field.default, text, **limits)
        case "float":
            flags.DEFINE_float(name, field.default, text)
        case _:
            flags.DEFINE_string(name, field.default, text)


def of_section(section: type) -> Any:
    """Returns the values of the flags of one section, such as `DeviceConfig`."""
    return section(**{f.name: FLAGS[f.name].value for f in dataclasses.fields(section)})


def values(only_given: bool = False) -> dict[str, Any]:
    """Returns the settings of a run by name, with lists of numbers as tuples.

    Args:
        only_given: whether to leave out the flags that the command line does not name.
    """
    settings = {}
    for field in setting_fields():
        flag = FLAGS[field.name]
        if flag.present or not only_given:
            settings[field.name] = flag.value
            if isinstance(flag.value, list):
                settings[field.name] = _whole_numbers(field.name, flag.value)
    return settings


def _whole_numbers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(map(int, texts))
    except ValueError:
        raise UserError(
            f"--{name}={','.join(texts)}: must be whole numbers, such as 300,300"
        ) from None
