"""The identity of a run: the settings that make another run, and a digest of them."""

import dataclasses
import hashlib
import json

from hvi_tf.config.config import Config, fields, flatten
from hvi_tf.config.settings import Identity


def differences(old: Config, new: Config) -> list[str]:
    """Returns the settings that make `new` another run than `old`, as `--name: old -> new`.

    More epochs continue the same run, unless one of its schedules ends with the run.
    """
    before, after = flatten(old), flatten(new)
    continues = old.training.epochs < new.training.epochs and not old.training.plans_to_the_end
    ends = " (a schedule ends with the run)" if old.training.plans_to_the_end else ""
    return [
        f"--{f.name}: {before[f.name]} -> {after[f.name]}{ends if f.name == 'epochs' else ''}"
        for f in fields()
        if before[f.name] != after[f.name]
        and f.metadata["identity"] is not Identity.NONE
        and not (f.name == "epochs" and continues)
    ]


def identity_digest(config: Config) -> str:
    """Returns the SHA-256 of the settings that make a run, in hexadecimal.

    A setting with its neutral value is left out, so that a new setting with a neutral value
    keeps the digests of earlier runs. Epochs count only if a schedule ends with the run.
    """
    values = flatten(config)
    identity = {
        f.name: values[f.name]
        for f in fields()
        if f.metadata["identity"] is Identity.FULL
        and values[f.name] != f.metadata["neutral"]
        and (f.name != "epochs" or config.training.plans_to_the_end)
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def fit_name(config: Config, step: int) -> str:
    """Returns the folder of a fit to the model of this step; other settings have another one."""
    return f"fit_tau_step{step}_{identity_digest(config)[:8]}"


def with_digest(config: Config, digest: str) -> Config:
    """Returns the configuration of a run on the data file with this digest."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, data_digest=digest))


def with_frozen(config: Config, step: int) -> Config:
    """Returns the configuration of a fit to the model of this training step."""
    training = dataclasses.replace(config.training, frozen=f"step {step}")
    return dataclasses.replace(config, training=training)
