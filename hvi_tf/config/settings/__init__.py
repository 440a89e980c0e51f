"""The settings of a run by section; each field carries all facts about its setting.

So the flags, their defaults, their rules and the stored configuration cannot differ.
"""

from hvi_tf.config.settings.command import CommandConfig, DeviceConfig, SavedModelConfig
from hvi_tf.config.settings.data import DataConfig
from hvi_tf.config.settings.evaluation import EvaluationConfig
from hvi_tf.config.settings.fields import (
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_EVAL_COUNT,
    MAX_NUMBER,
    MAX_ROWS,
    MAX_STEPS,
    MAX_WIDTH,
    NO_NEUTRAL_VALUE,
    Identity,
    field_names,
    kind,
    setting,
)
from hvi_tf.config.settings.method import DEFAULT_SVI_LEARNING_RATE, MethodConfig
from hvi_tf.config.settings.model import ModelConfig
from hvi_tf.config.settings.training import TrainingConfig

# The sections of config.json.
SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "method": MethodConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}

__all__ = [
    "DEFAULT_SVI_LEARNING_RATE",
    "MAX_COUNT",
    "MAX_EPOCHS",
    "MAX_EVAL_COUNT",
    "MAX_NUMBER",
    "MAX_ROWS",
    "MAX_STEPS",
    "MAX_WIDTH",
    "NO_NEUTRAL_VALUE",
    "SECTIONS",
    "CommandConfig",
    "DataConfig",
    "DeviceConfig",
    "EvaluationConfig",
    "Identity",
    "MethodConfig",
    "ModelConfig",
    "SavedModelConfig",
    "TrainingConfig",
    "field_names",
    "kind",
    "setting",
]
