"""Configurations in which a setting changes something; elsewhere the setting is refused."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from hvi_tf.config import estimators
from hvi_tf.inference import methods
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS, Method

if TYPE_CHECKING:
    from hvi_tf.config.config import Config


class Use(NamedTuple):
    """The configurations in which a setting changes something.

    Attributes:
        applies: returns whether the setting changes something in a configuration.
        where: the flags of such a configuration, for the message.
    """

    applies: Callable[["Config"], bool]
    where: str


def _of_methods(applies: Callable[[Method], bool]) -> Use:
    """Returns the use of a setting of the methods for which `applies` is true."""
    names = [name for name, method in METHODS.items() if applies(method)]
    where = [f"--bound={'|'.join(names)}"] if names else []
    if not applies(methods.look_up("svi")) and applies(methods.look_up("svi", "hierarchical")):
        where.append("--posterior=hierarchical")
    return Use(lambda config: applies(config.chosen_method), " or ".join(where))


def _has_mlp(config: "Config") -> bool:
    model = config.model
    convolutional = model.encoder == "resnet" and model.decoder == "pixelcnn"
    return (
        not convolutional
        or config.chosen_method.hierarchical
        or config.method.prior == "hierarchical"
    )


def _has_more_terms(config: "Config") -> bool:
    """Returns whether a sum over k or m has more terms than `--backward_samples`."""
    method, counts = config.chosen_method, config.method
    K = method.psi_per_z(Counts(max(K for _, K in config.k_steps), counts.M))
    return method.takes_backward_samples and counts.backward_samples < max(K, counts.M)


def _decays_exponentially(config: "Config") -> bool:
    return not config.training.decays_to_the_end


REFINING = _of_methods(lambda method: method.refines)
BUFFER = _of_methods(lambda method: method.weights_proposals)
MIXTURE = _of_methods(lambda method: method.mixes)
HIERARCHICAL = _of_methods(lambda method: method.hierarchical)
TAU = _of_methods(lambda method: method.has_tau)
TRAINED_TAU = _of_methods(lambda method: method.trains_tau)
OUTER_TERM = _of_methods(lambda method: not method.refines)
BACKWARD_SAMPLES = Use(
    _has_more_terms,
    f"{_of_methods(lambda method: method.takes_backward_samples).where} with a --K or --M above it",
)

HIERARCHICAL_PRIOR = Use(
    lambda config: config.method.prior == "hierarchical", "--prior=hierarchical"
)
FLOW = Use(lambda config: config.method.posterior in ("iaf", "realnvp"), "--posterior=iaf|realnvp")
DENSE = Use(_has_mlp, "--encoder=mlp, --decoder=mlp, a hierarchical q(z|x) or --prior=hierarchical")
RESNET = Use(lambda config: config.model.encoder == "resnet", "--encoder=resnet")
PIXELCNN = Use(lambda config: config.model.decoder == "pixelcnn", "--decoder=pixelcnn")

ADAMW = Use(lambda config: config.training.optimizer == "adamw", "--optimizer=adamw")
DECAY_TO_THE_END = Use(
    lambda config: config.training.decays_to_the_end, "--lr_schedule=cosine|linear"
)
EXPONENTIAL_DECAY = Use(_decays_exponentially, "--lr_schedule=exponential")
FACTOR_BELOW_1 = Use(
    lambda config: _decays_exponentially(config) and config.training.annealing_factor != 1,
    "--lr_schedule=exponential with an --annealing_factor below 1",
)
KL_START_BELOW_1 = Use(
    lambda config: config.training.kl_annealing_start < 1, "a --kl_annealing_start below 1"
)
KL_ANNEALING = Use(
    lambda config: config.training.kl_annealing_steps > 0, "--kl_annealing_steps above 0"
)

EVALUATION_STEPS = Use(estimators.takes_steps, "--estimator=bsvi|svi|iwae|diwhvi")
EVALUATION_DRAWS = Use(
    estimators.takes_draws, "an estimator other than ais, and iwae|diwhvi without --eval_steps"
)
EVALUATION_PILOT = Use(
    lambda config: estimators.takes_draws(config) and not estimators.refines(config),
    "a bound like diwhvi or iwae without --eval_steps, whose draws of z it chooses",
)
EVALUATION_PSI = Use(estimators.draws_psi, "a bound that draws psi, such as --estimator=diwhvi")
EVALUATION_MIXTURE = Use(estimators.mixes, "--estimator=diwhvi-mixture")
EVALUATION_ZETA = Use(estimators.draws_zeta, "a bound that draws zeta, under --prior=hierarchical")
EVALUATION_SVI = Use(estimators.refines, "--estimator=bsvi|svi")
EVALUATION_AIS = Use(estimators.anneals, "--estimator=ais")
