"""Scorers of one model's log p(x) by DIWHVI, IWAE, BSVI and AIS, each at a given budget."""

from collections.abc import Callable

import tensorflow as tf

from hvi_tf.config.settings import EvaluationConfig
from hvi_tf.evaluation import annealing, scorers
from hvi_tf.evaluation.annealing import Annealing
from hvi_tf.experiments.harness.experiment import Context, Settings
from hvi_tf.experiments.iwhvi import explicit_encoder
from hvi_tf.inference import image_scores, methods, plans, refined_scores
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.svi import SVI
from hvi_tf.models.vae import VAE
from hvi_tf.training.runs import Run

LEAPFROG_STEPS = 5

Score = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def make_scorer(run: Run, context: Context, s: Settings) -> Score:
    """Returns (x, seed) -> the bound of each image by the estimator of a cell."""
    budget, images = s["budget"], s["images"]

    def by_method(model: VAE, name: str, K: int) -> Score:
        rows = max(1, plans.ROWS // images)
        method = methods.look_up(name)
        plan = plans.make(method, Counts(K=K, M=budget), rows=rows, max_images=1)
        score = image_scores.make_scorer(model.callables, method, plan)
        return lambda x, seed: score(x, seed).log_likelihood

    def diwhvi() -> Score:
        return by_method(run.model, "diwhvi", s["K"])

    def iwae() -> Score:
        return by_method(explicit_encoder.fit(run, context, s["encoder_steps"]), "iwae", 0)

    def bsvi() -> Score:
        model = explicit_encoder.fit(run, context, s["encoder_steps"])
        rate = EvaluationConfig().eval_svi_learning_rate
        settings = SVI(budget, rate, scorers.MOMENTUM, scorers.CLIP_NORM)
        score = refined_scores.make_scorer(model.localize, methods.look_up("bsvi"), settings)
        return lambda x, seed: score(x, seed).log_likelihood

    def ais() -> Score:
        settings = Annealing(s["ais_chains"], budget, LEAPFROG_STEPS)
        score = annealing.make_annealer(run.model.callables, settings)
        return lambda x, seed: score(x, seed).log_likelihood

    makers = {"DIWHVI": diwhvi, "IWAE": iwae, "BSVI": bsvi, "AIS": ais}
    return makers[s["method"]]()
