"""Settings of the final score."""

import dataclasses
import functools

from hvi_tf.config.settings import uses
from hvi_tf.config.settings.fields import MAX_COUNT, MAX_EVAL_COUNT, Identity, setting
from hvi_tf.inference.methods import MIXTURE_SIZE

_setting = functools.partial(
    setting,
    section="Evaluation",
    identity=Identity.NONE,
    modes=("train", "fit_tau", "evaluate"),
)
_checkpoint = functools.partial(_setting, saved_model=False)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """The final score. The papers use M=5000 and K=100 of DIWHVI."""

    estimator: str = _checkpoint(
        "auto",
        "Estimator of log p(x): auto (the trained bound), the name of a bound, such as "
        "sivi-equicomp for a run of iwhvi, bsvi or svi for any run, or ais (annealed importance "
        "sampling).",
        main=True,
    )
    eval_steps: int = _checkpoint(
        None,
        "Steps k of SVI of --estimator=bsvi|svi (default 500). With --estimator=iwae|diwhvi: the "
        "bounds of k, 2k, ..., 5k draws of z in one table.",
        1,
        MAX_EVAL_COUNT,
        use=uses.EVALUATION_STEPS,
    )
    eval_M: int = _setting(
        100,
        "Draws of z in the evaluation; with --estimator=bsvi|svi, from the refined q(z|x).",
        1,
        MAX_EVAL_COUNT,
        use=uses.EVALUATION_DRAWS,
        main=True,
    )
    eval_tolerance: float = _checkpoint(
        0.0,
        "Largest standard error of the score of an image. A pilot chooses the number of draws of "
        "z for each image, at most --eval_M. 0: --eval_M for all.",
        0.0,
        1e3,
        unit="nats",
        use=uses.EVALUATION_PILOT,
    )
    eval_K: int = _setting(
        20,
        "Draws of psi in the evaluation, where q is hierarchical: for each z, or shared by all z.",
        0,
        MAX_EVAL_COUNT,
        use=uses.EVALUATION_PSI,
        main=True,
    )
    eval_defensive: float = _checkpoint(
        0.0,
        "The same as --defensive, in the evaluation by diwhvi-mixture.",
        0.0,
        0.99,
        use=uses.EVALUATION_MIXTURE,
    )
    eval_mixture_size: int = _checkpoint(
        MIXTURE_SIZE,
        "Largest number of z that share --eval_K psi in the evaluation by diwhvi-mixture; a "
        "larger M is split into groups. 0: all z share them.",
        0,
        MAX_EVAL_COUNT,
        use=uses.EVALUATION_MIXTURE,
    )
    eval_L: int = _checkpoint(
        20,
        "Draws of zeta per z in the evaluation, where p(z) is hierarchical.",
        1,
        MAX_EVAL_COUNT,
        use=uses.EVALUATION_ZETA,
    )
    eval_split: str = _setting(
        "test",
        "Split that is evaluated: test, validation or train.",
        choices=("test", "validation", "train"),
    )
    eval_images: int = _setting(
        10_000,
        "Number of evaluated images, the first ones of the split.",
        1,
        MAX_EVAL_COUNT,
        main=True,
    )
    eval_svi_learning_rate: float = _checkpoint(
        0.02,
        "Learning rate of SVI in the evaluation. Its loop is longer than the loop in training, so "
        "it takes smaller steps.",
        0.0,
        use=uses.EVALUATION_SVI,
    )
    num_samples: int = _setting(
        64, "Images that --mode=sample draws into one PNG file.", 1, 10_000, modes=("sample",)
    )
    ais_chains: int = _checkpoint(
        16, "Chains per image of --estimator=ais.", 1, MAX_COUNT, use=uses.EVALUATION_AIS
    )
    ais_steps: int = _checkpoint(
        1_000, "Temperatures of --estimator=ais.", 1, MAX_EVAL_COUNT, use=uses.EVALUATION_AIS
    )
    ais_leapfrog_steps: int = _checkpoint(
        5, "Leapfrog steps per temperature.", 1, MAX_COUNT, use=uses.EVALUATION_AIS
    )
