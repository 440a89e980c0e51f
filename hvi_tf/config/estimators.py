"""The estimator of an evaluation and its counts, as the configuration names them."""

from typing import TYPE_CHECKING, NamedTuple

from hvi_tf.inference.methods import METHODS, Method

if TYPE_CHECKING:
    from hvi_tf.config.config import Config


class Counts(NamedTuple):
    """The counts of an evaluation as they are reported; 0 where there is nothing to draw."""

    M: int
    K: int
    L: int


def estimator_row(config: "Config") -> Method:
    """The row that bounds log p(x): the one that was trained, unless another was asked for."""
    found = METHODS.get(estimator(config), config.row)
    if not found.mixes:
        return found
    e = config.evaluation
    return found._replace(defensive=e.eval_defensive, mixture_size=e.eval_mixture_size)


def estimator(config: "Config") -> str:
    """The estimator's name; a run of svi is scored by bsvi, which also reports svi's own bound."""
    name = config.evaluation.estimator
    if name == "auto":
        return "bsvi" if config.row.refines else config.row.name
    return name


def anneals(config: "Config") -> bool:
    """Whether the estimator is annealed importance sampling."""
    return estimator(config) == "ais"


def refines(config: "Config") -> bool:
    """Whether the estimator refines the proposal by SVI."""
    return estimator(config) in ("bsvi", "svi")


def takes_steps(config: "Config") -> bool:
    """Whether `--eval_steps` counts steps of SVI, or the draws of a table of bounds."""
    return refines(config) or config.evaluation.estimator in ("iwae", "diwhvi")


def takes_draws(config: "Config") -> bool:
    """Whether `--eval_M` counts the draws of z."""
    return refines(config) or not (anneals(config) or config.evaluation.eval_steps)


def draws_psi(config: "Config") -> bool:
    """Whether each z is scored with `--eval_K` psi."""
    row = _scored_row(config)
    # A run of hvm is scored with eval_K as the paper does; --estimator=hvm asks for K=0.
    asked_for = config.evaluation.estimator not in ("auto", "bsvi", "svi")
    drawn = row.draws_psi and (row.K.free or not asked_for)
    return drawn and not anneals(config)


def mixes(config: "Config") -> bool:
    """Whether the psi of all z come from one mixture."""
    return not anneals(config) and estimator_row(config).mixes


def draws_zeta(config: "Config") -> bool:
    """Whether each z is scored with `--eval_L` zeta."""
    drawn = config.method.prior == "hierarchical" and _scored_row(config).zeta_is_psi_0 is False
    return drawn and not anneals(config)


def _scored_row(config: "Config") -> Method:
    """The row whose densities are evaluated; SVI refines whatever proposal the run has."""
    return config.row if refines(config) else estimator_row(config)


def counts(config: "Config") -> Counts:
    """The configured eval_M, eval_K and eval_L, where the estimator has a use for them."""
    e = config.evaluation
    M = e.eval_M if takes_draws(config) else e.eval_steps or 0
    K = e.eval_K if draws_psi(config) else 0
    return Counts(M, K, e.eval_L if draws_zeta(config) else 0)
