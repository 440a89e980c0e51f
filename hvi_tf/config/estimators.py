"""The estimator of an evaluation and its counts, as the configuration names them."""

from typing import TYPE_CHECKING

from hvi_tf.inference import methods
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS, Method

if TYPE_CHECKING:
    from hvi_tf.config.config import Config


def scoring_method(config: "Config") -> Method:
    """Returns the method that bounds log p(x): the trained one, or that of `--estimator`."""
    trained, e = config.chosen_method, config.evaluation
    if anneals(config):
        return trained
    posterior = "hierarchical" if trained.hierarchical else config.method.posterior
    return methods.look_up(estimator(config), posterior, e.eval_defensive, e.eval_mixture_size)


def estimator(config: "Config") -> str:
    """Returns the name of the estimator.

    A run of svi is scored by bsvi, which also reports the bound of svi.
    """
    name = config.evaluation.estimator
    if name == "auto":
        return "bsvi" if config.chosen_method.refines else config.chosen_method.name
    return name


def anneals(config: "Config") -> bool:
    """Returns whether the estimator is annealed importance sampling."""
    return estimator(config) == "ais"


def refines(config: "Config") -> bool:
    """Returns whether the estimator refines the proposal by SVI."""
    return not anneals(config) and methods.look_up(estimator(config)).refines


def takes_steps(config: "Config") -> bool:
    """Returns whether `--eval_steps` counts steps of SVI, or the draws of a table of bounds."""
    named = METHODS.get(config.evaluation.estimator)
    return refines(config) or (named is not None and named.takes_multiples)


def takes_draws(config: "Config") -> bool:
    """Returns whether `--eval_M` counts the draws of z."""
    return refines(config) or not (anneals(config) or config.evaluation.eval_steps)


def draws_psi(config: "Config") -> bool:
    """Returns whether each z is scored with `--eval_K` psi."""
    method = _scored_method(config)
    # A run of hvm is scored with eval_K as in the paper; --estimator=hvm asks for K=0.
    named = config.evaluation.estimator != "auto" and not refines(config)
    drawn = method.draws_psi and (method.K.free or not named)
    return drawn and not anneals(config)


def mixes(config: "Config") -> bool:
    """Returns whether one mixture draws the psi of all z."""
    return not anneals(config) and scoring_method(config).mixes


def draws_zeta(config: "Config") -> bool:
    """Returns whether each z is scored with `--eval_L` zeta."""
    drawn = config.method.prior == "hierarchical" and not _scored_method(config).zeta_is_psi_0
    return drawn and not anneals(config)


def _scored_method(config: "Config") -> Method:
    """Returns the method of the evaluated densities; SVI refines the proposal of the run."""
    return config.chosen_method if refines(config) else scoring_method(config)


def counts(config: "Config") -> Counts:
    """Returns the configured eval_M, eval_K and eval_L, or 0 where the estimator draws none."""
    e = config.evaluation
    M = e.eval_M if takes_draws(config) else e.eval_steps or 0
    K = e.eval_K if draws_psi(config) else 0
    return Counts(K, M, e.eval_L if draws_zeta(config) else 0)
