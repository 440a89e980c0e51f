"""A setting as a dataclass field: all facts about it are metadata of the field."""

import dataclasses
import enum
import typing
from typing import Any

from hvi_tf.config.settings.uses import Use

# Far above any use, and far below a count that a typing error would exhaust a machine with.
MAX_COUNT = 100_000
MAX_EVAL_COUNT = 10_000_000
MAX_EPOCHS = 10_000_000
MAX_STEPS = 10**12
MAX_ROWS = 2_000_000  # (K + 1) * M * batch, rows of the conditional network in a step
MAX_WIDTH = 100_000
# float32 ends at 3.4e38. Keras clips by the inverse, and the inverse of 1e38 is 0 in float32.
MAX_NUMBER = 1e37

# Modes of the command line that train.
TRAINING_MODES = ("train", "fit_tau")

# The neutral value of a setting that always belongs to the digest of a run.
NO_NEUTRAL_VALUE = object()


class Identity(enum.Enum):
    """Whether another value of a setting makes another run."""

    FULL = "compared between two commands on one workdir, and part of the digest"
    COMPARED = "compared between two commands on one workdir, but not part of the digest"
    NONE = "may change between two commands on one workdir"


def setting(
    default: Any,
    help_text: str | None,
    low: float | None = None,
    high: float = MAX_NUMBER,
    *,
    section: str = "",
    unit: str = "",
    choices: tuple[str, ...] = (),
    identity: Identity = Identity.FULL,
    neutral: Any = NO_NEUTRAL_VALUE,
    use: Use | None = None,
    modes: tuple[str, ...] = TRAINING_MODES,
    main: bool = False,
    saved_model: bool = True,
) -> Any:
    """Returns a field with its metadata.

    Args:
        default: None if the default depends on the method.
        help_text: help of the flag. A field without a help text has no flag; the program sets it.
        low: smallest value of a number, inclusive; None for a setting that is no number.
        high: largest value of a number, inclusive.
        section: heading of --help under which the flag is listed.
        unit: unit of the value, such as steps, epochs or nats.
        choices: allowed values; empty if other rules hold.
        identity: whether another value makes another run.
        neutral: value at which the digest leaves the setting out, because the setting then
            changes nothing.
        use: the configurations in which the setting changes something; None for all.
        modes: modes of the command in which the setting changes something.
        main: whether --help lists the flag first.
        saved_model: whether the setting has an effect on the score of a SavedModel.
    """
    metadata = {
        "help": help_text,
        "low": low,
        "high": high,
        "section": section,
        "unit": unit,
        "choices": choices,
        "identity": identity,
        "neutral": neutral,
        "use": use,
        "modes": modes,
        "main": main,
        "saved_model": saved_model,
    }
    return dataclasses.field(default=default, metadata=metadata)


def kind(field: dataclasses.Field) -> type:
    """Returns the type of a field's value: tuple (of whole numbers), bool, int, float or str."""
    kinds = typing.get_args(field.type) or (field.type,)
    if tuple in (field.type, typing.get_origin(field.type)):
        return tuple
    return next(k for k in (bool, int, float, str) if k in kinds)


def field_names(section: type) -> tuple[str, ...]:
    """Returns the names of a section's settings."""
    return tuple(field.name for field in dataclasses.fields(section))
