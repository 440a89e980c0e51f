"""Hierarchical variational inference with TensorFlow, Keras and TFP.

    import hvi_tf as hvi

Importing this package is cheap: what it offers is loaded when it is first used, and
TensorFlow with it, so that `python -m hvi_tf.main --help` answers at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvi_tf import bounds, diagnostics, jackknife, svi
    from hvi_tf.ascent import FitDiverged, FitInterrupted
    from hvi_tf.callables import Callables
    from hvi_tf.gradients import ParameterGroups
    from hvi_tf.hierarchy import (
        Hierarchy,
        hmc_posterior,
        kl_lower,
        kl_upper,
        log_density_lower,
        log_density_upper,
        mutual_information,
    )
    from hvi_tf.inference import (
        Evidence,
        draw,
        evidence,
        fit,
        refined_evidence,
        value_and_gradients,
    )
    from hvi_tf.methods import METHODS
    from hvi_tf.sampling import LatentSample, Model, log_densities
    from hvi_tf.svi import SVI, LocalModel

if sys.flags.optimize > 1:  # With this name `python -OO -m hvi_tf.main` ends with one line.
    raise ImportError(
        "PYTHONOPTIMIZE=2 (python -OO) removes docstrings, which tf_keras needs; unset it",
        name=__name__,
    )

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "SVI",
    "Callables",
    "Evidence",
    "FitDiverged",
    "FitInterrupted",
    "Hierarchy",
    "LatentSample",
    "LocalModel",
    "Model",
    "ParameterGroups",
    "bounds",
    "diagnostics",
    "draw",
    "evidence",
    "fit",
    "hmc_posterior",
    "jackknife",
    "kl_lower",
    "kl_upper",
    "log_densities",
    "log_density_lower",
    "log_density_upper",
    "mutual_information",
    "refined_evidence",
    "svi",
    "value_and_gradients",
]

_HOME_OF = {
    "METHODS": "methods",
    "SVI": "svi",
    "Callables": "callables",
    "Evidence": "inference",
    "FitDiverged": "ascent",
    "FitInterrupted": "ascent",
    "Hierarchy": "hierarchy",
    "LatentSample": "sampling",
    "LocalModel": "svi",
    "Model": "sampling",
    "ParameterGroups": "gradients",
    "draw": "inference",
    "evidence": "inference",
    "fit": "inference",
    "hmc_posterior": "hierarchy",
    "kl_lower": "hierarchy",
    "kl_upper": "hierarchy",
    "log_densities": "sampling",
    "log_density_lower": "hierarchy",
    "log_density_upper": "hierarchy",
    "mutual_information": "hierarchy",
    "refined_evidence": "inference",
    "value_and_gradients": "inference",
}


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        if _HOME_OF[name] in ("inference", "ascent"):  # whose optimizers are of Keras
            importlib.import_module("hvi_tf.startup").check_keras_backend()
        return getattr(importlib.import_module(f"hvi_tf.{_HOME_OF[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"hvi_tf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
