"""Hierarchical variational inference with TensorFlow, Keras and TFP.

    import hvi_tf as hvi

Importing this package is cheap: what it offers is loaded when it is first used, and
TensorFlow with it, so that `python -m hvi_tf.main --help` answers at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvi_tf import bounds
    from hvi_tf.bounds import diagnostics, jackknife
    from hvi_tf.inference import svi
    from hvi_tf.inference.ascent import FitDiverged, FitInterrupted
    from hvi_tf.inference.callables import Callables
    from hvi_tf.inference.evidence import (
        Evidence,
        draw,
        evidence,
        fit,
        refined_evidence,
        value_and_gradients,
    )
    from hvi_tf.inference.gradients import ParameterGroups
    from hvi_tf.inference.hierarchy import (
        Hierarchy,
        hmc_posterior,
        kl_lower,
        kl_upper,
        log_density_lower,
        log_density_upper,
        mutual_information,
    )
    from hvi_tf.inference.methods import METHODS
    from hvi_tf.inference.sampling import LatentSample, Model, log_densities
    from hvi_tf.inference.svi import SVI, LocalModel

if sys.flags.optimize > 1:  # With this name `python -OO -m hvi_tf.main` ends with one line.
    raise ImportError(
        "PYTHONOPTIMIZE=2 (python -OO) removes docstrings, which tf_keras needs; unset it",
        name=__name__,
    )

__version__ = "0.1.0"

# Where each public name is defined. A module stands for itself.
_HOME_OF = {
    "METHODS": "inference.methods",
    "SVI": "inference.svi",
    "Callables": "inference.callables",
    "Evidence": "inference.evidence",
    "FitDiverged": "inference.ascent",
    "FitInterrupted": "inference.ascent",
    "Hierarchy": "inference.hierarchy",
    "LatentSample": "inference.sampling",
    "LocalModel": "inference.svi",
    "Model": "inference.sampling",
    "ParameterGroups": "inference.gradients",
    "bounds": "bounds",
    "diagnostics": "bounds.diagnostics",
    "draw": "inference.evidence",
    "evidence": "inference.evidence",
    "fit": "inference.evidence",
    "hmc_posterior": "inference.hierarchy",
    "jackknife": "bounds.jackknife",
    "kl_lower": "inference.hierarchy",
    "kl_upper": "inference.hierarchy",
    "log_densities": "inference.sampling",
    "log_density_lower": "inference.hierarchy",
    "log_density_upper": "inference.hierarchy",
    "mutual_information": "inference.hierarchy",
    "refined_evidence": "inference.evidence",
    "svi": "inference.svi",
    "value_and_gradients": "inference.evidence",
}

__all__ = sorted(_HOME_OF)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    if home in ("inference.ascent", "inference.evidence"):  # They use optimizers of Keras.
        importlib.import_module("hvi_tf.runtime.startup").check_keras_backend()
    module = importlib.import_module(f"hvi_tf.{home}")
    return (
        module
        if home.split(".")[-1] == name and not hasattr(module, name)
        else getattr(module, name)
    )
