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
    from hvi_tf.inference.checked import draw, value_and_gradients
    from hvi_tf.inference.densities import log_densities
    from hvi_tf.inference.evidence import Evidence, evidence, refined_evidence
    from hvi_tf.inference.fit import fit
    from hvi_tf.inference.hmc import hmc_posterior
    from hvi_tf.inference.kl import kl_lower, kl_upper
    from hvi_tf.inference.methods import METHODS
    from hvi_tf.inference.model import Hierarchy, LatentSample, LocalModel, Model, ParameterGroups
    from hvi_tf.inference.sandwich import log_density_lower, log_density_upper, mutual_information
    from hvi_tf.inference.svi import SVI

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
    "Hierarchy": "inference.model",
    "LatentSample": "inference.model",
    "LocalModel": "inference.model",
    "Model": "inference.model",
    "ParameterGroups": "inference.model",
    "bounds": "bounds",
    "diagnostics": "bounds.diagnostics",
    "draw": "inference.checked",
    "evidence": "inference.evidence",
    "fit": "inference.fit",
    "hmc_posterior": "inference.hmc",
    "jackknife": "bounds.jackknife",
    "kl_lower": "inference.kl",
    "kl_upper": "inference.kl",
    "log_densities": "inference.densities",
    "log_density_lower": "inference.sandwich",
    "log_density_upper": "inference.sandwich",
    "mutual_information": "inference.sandwich",
    "refined_evidence": "inference.evidence",
    "svi": "inference.svi",
    "value_and_gradients": "inference.checked",
}

__all__ = sorted(_HOME_OF)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME_OF[name]
    if home in ("inference.ascent", "inference.checked", "inference.evidence", "inference.fit"):
        # They use optimizers and variables of Keras.
        importlib.import_module("hvi_tf.runtime.startup").check_keras_backend()
    module = importlib.import_module(f"hvi_tf.{home}")
    return getattr(module, name) if hasattr(module, name) else module
