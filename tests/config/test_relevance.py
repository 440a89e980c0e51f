"""Settings of every method, each of which changes a result or is refused by its name.

The cases come from the table of settings, so a new field needs a value here.
"""

import functools
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config import relevance
from hvi_tf.config.settings import EvaluationConfig, field_names
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.evaluation import evaluate, jobs
from hvi_tf.inference.methods import METHODS
from hvi_tf.models import architecture
from hvi_tf.models.vae import make_vae

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16)).astype(np.uint8)
DATA = Dataset(IMAGES, IMAGES, IMAGES, (4, 4, 1))
X = tf.constant((IMAGES[:2] > 127).astype(np.float32))

# A value of each setting; a value that a configuration below already has is skipped.
VALUES = {
    **{"bound": "iwvi", "K": 3, "M": 3, "L": 3, "backward_samples": 1, "prior": "hierarchical"},
    **{"gradient": "stl", "posterior": "realnvp", "svi_steps": 3, "svi_learning_rate": 0.3},
    **{"svi_momentum": 0.9, "svi_clip_norm": 0.1, "pi": "learned", "sir": True},
    **{"double_sampling": True, "encoder_objective": "kl"},
    **{"hidden": (3,), "latent_dim": 4, "aux_dim": 3, "prior_dim": 3, "num_flows": 3},
    **{"flow_hidden": (3,), "scale": "log_variance", "likelihood": "discretized_logistic"},
    **{"encoder": "resnet", "resnet_channels": (3,), "decoder": "pixelcnn"},
    **{"pixelcnn_channels": 3, "pixelcnn_kernels": (5, 3), "tau_gate_bias": -1.0},
    **{"precision": "bfloat16", "learning_rate": 0.1, "annealing_factor": 0.5},
    **{"annealing_epochs": 7.0, "K_schedule": "0:1", "inner_warmup_epochs": 3.0},
    **{"weight_decay": 0.1, "lr_final_fraction": 0.1, "tau_steps": 1},
    **{"inner_free_bits": 1e6, "outer_free_bits": 1e6},
    **{"outer_warmup_epochs": 3.0, "kl_annealing_steps": 9, "kl_annealing_start": 0.3},
    **{"estimator": "ais", "eval_steps": 3, "eval_M": 7, "eval_tolerance": 0.3, "eval_K": 3},
    **{"eval_L": 3, "eval_split": "train", "eval_images": 3, "eval_svi_learning_rate": 0.3},
    **{"ais_chains": 3, "ais_steps": 3, "ais_leapfrog_steps": 3},
    **{"defensive": 0.3, "eval_defensive": 0.3, "eval_mixture_size": 1},
}
# Settings of the length of a training, of its files and of its data, for every method.
OF_EVERY_RUN = {
    *("dataset", "split", "split_seed", "data_dir", "manual_dir", "data_digest", "epochs"),
    *("max_steps", "patience", "batch_size", "checkpoint_every", "keep_checkpoints", "keep_every"),
    *("on_nonfinite", "eval_every", "jit_compile", "steps_per_call", "frozen"),
    *("optimizer", "clip_norm", "seed", "minutes", "lr_schedule", "lr_warmup_steps", "ema_decay"),
}
OF_A_MODE = {"num_samples", "tau_epochs"}
OF_AN_EVALUATION = [n for n in field_names(EvaluationConfig) if n not in OF_A_MODE]
OF_A_STEP = [n for n in VALUES if n not in OF_AN_EVALUATION]

SMALL = dict(
    hidden=(2,), latent_dim=2, aux_dim=2, prior_dim=2, flow_hidden=(2,), resnet_channels=(2,),
    pixelcnn_channels=2, pixelcnn_kernels=(3, 3), jit_compile="off", eval_M=2, K_schedule="",
)  # fmt: skip
RUNS = {
    **{name: dict(bound=name) for name in METHODS},
    **{
        f"{name} hierarchical": dict(bound=name, posterior="hierarchical")
        for name in ("svi", "bsvi")
    },
    "iwhvi prior": dict(bound="iwhvi", prior="hierarchical"),
    "iwae prior": dict(bound="iwae", prior="hierarchical"),
    "iaf": dict(bound="vae", posterior="iaf"),
    "convolutions": dict(bound="vae", encoder="resnet", decoder="pixelcnn"),
    "annealed": dict(bound="hvm", kl_annealing_steps=5),
    "constant weight": dict(bound="vae", kl_annealing_steps=5, kl_annealing_start=1.0),
    "constant rate": dict(bound="vae", annealing_factor=1.0),
    "linear rate": dict(bound="vae", lr_schedule="linear", optimizer="adamw"),
}


def small(run):
    """Returns the settings of a tiny run, with counts of 2 where its method leaves them free."""
    method = METHODS[run["bound"]]
    counts = {n: 2 for n in ("K", "M") if getattr(method, n).free}
    if run.get("prior") == "hierarchical" or method.needs_hierarchical_prior:
        counts |= {"L": 2} if method.L.free else {}
    return SMALL | counts | ({"svi_steps": 2} if method.refines else {}) | run


def with_setting(base, name, value):
    """Returns the configuration with this value of a setting; None if it is refused by name."""
    try:
        return config_lib.derive(base, **{name: value})
    except UserError as error:
        message = str(error)
    assert f"--{name}=" in message, message
    return None


def shapes(config):
    """Returns the shapes of all weights of all networks."""
    rng = np.random.default_rng(0)
    built = architecture.build(config.chosen_method, config.method, config.model, 16, rng)
    return {name: [tuple(v.shape) for v in layer.variables] for name, layer in built.items()}


def step(config):
    """Returns the numbers of a step in the second epoch, as bytes."""
    model = make_vae(config, 16)
    model.set_schedule(*config.schedule(1))
    model.optimizer.iterations.assign(1)
    model.set_run_length(4)
    reported, ascent = model.batch_gradients(X)
    arrays = [model.learning_rate, *reported.values(), *(g for group in ascent for g in group)]
    if config.training.tau_steps or config.training.optimizer == "adamw":  # the ascent has neither
        arrays += [*model.train_step(X).values(), *model.trainable_variables]
    return [np.asarray(a).tobytes() for a in arrays]


QUICK = ("vae", "iwhvi", "bsvi")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.long]) for n in RUNS]
)
def test_a_setting_of_training_changes_the_step_or_is_refused(name):
    base = small(RUNS[name])
    config = config_lib.derive(base)
    rate, sizes, before = config.schedule(1).learning_rate, shapes(config), step(config)
    values = [(setting, VALUES[setting]) for setting in OF_A_STEP]
    # Equation 9 concerns psi_1:K, so at K=0 dreg equals the reparameterized estimator.
    same = (
        {"dreg"} if config.chosen_method.has_own_tau and not config.chosen_method.K.free else set()
    )
    values += [
        ("gradient", gradient)
        for gradient in config.chosen_method.gradients
        if gradient not in same
    ]
    for setting, value in values:
        other = with_setting(base, setting, value)
        if other in (None, config):
            continue
        if other.schedule(1).learning_rate == rate and shapes(other) == sizes:
            assert step(other) != before, (setting, value)


@pytest.fixture
def scored(monkeypatch):
    """Returns a function that returns the identity and the path of the scores of an evaluation."""

    class Recorded(Exception):
        pass

    def record(job, num_images, seed):
        raise Recorded(job.identity, job.path.name, num_images)

    monkeypatch.setattr(jobs, "score_all", record)
    workdir = types.SimpleNamespace(evaluation=pathlib.Path(), check=None)

    def run(config, model):
        with pytest.raises(Recorded) as recorded:
            evaluate.evaluate(config, model, DATA, workdir, step=1)
        return recorded.value.args

    return run


EVALUATIONS = [dict(estimator=name) for name in ("auto", "ais", "bsvi", "svi", *METHODS)]
EVALUATIONS += [dict(estimator=name, eval_steps=2) for name in ("iwae", "diwhvi")]
EVALUATIONS += [dict(eval_tolerance=VALUES["eval_tolerance"])]


@functools.cache
def model_of(name):
    return make_vae(config_lib.derive(small(RUNS[name])), 16)


@pytest.mark.parametrize("name", RUNS)
def test_a_setting_of_an_evaluation_changes_the_scores_or_is_refused(name, scored):
    model = model_of(name)
    for evaluation in EVALUATIONS:
        base = small(RUNS[name]) | evaluation
        try:
            before = scored(config_lib.derive(small(RUNS[name]), **evaluation), model)
        except UserError:  # this method has no such score
            continue
        for setting in OF_AN_EVALUATION:
            other = with_setting(base, setting, VALUES[setting])
            if other is not None and evaluation.get(setting) != VALUES[setting]:
                assert scored(other, model) != before, (evaluation, setting)


def test_every_setting_has_a_value_here():
    names = {field.name for field in config_lib.fields()}
    assert names == {*VALUES, *OF_EVERY_RUN, *OF_A_MODE}
    with_use = {field.name for field in config_lib.fields() if field.metadata["use"]}
    assert with_use <= {*VALUES, *OF_A_MODE}


@pytest.mark.parametrize(
    ("mode", "given", "refused"),
    [
        ("train", dict(tau_epochs=3), None),  # the epochs of a later fit_tau
        ("evaluate", dict(tau_epochs=3), "--tau_epochs=3: for --mode=train|fit_tau, not --mode=ev"),
        ("train", dict(num_samples=3), "--num_samples=3: for --mode=sample, not --mode=train"),
        ("evaluate", dict(num_samples=3), "--num_samples=3: for --mode=sample, not --mode=eva"),
        ("evaluate", dict(checkpoint_every=3), "--checkpoint_every=3: for --mode=train|fit_tau"),
        ("sample", dict(eval_M=7), "--eval_M=7: for --mode=train|fit_tau|evaluate, not"),
        ("export", dict(eval_M=7), "--eval_M=7: for --mode=train|fit_tau|evaluate, not"),
        ("export", dict(eval_M=100, data_dir="x"), None),  # the run already has this eval_M
        ("fit_tau", dict(tau_epochs=3, eval_M=7), None),
        ("sample", dict(num_samples=3), None),
        ("train", dict(minutes=60.0), None),
        ("train", dict(minutes=60.0, epochs=5), "--epochs=5: --minutes plans the epochs; leave on"),
    ],
)
def test_a_setting_without_effect_in_a_mode_is_refused(mode, given, refused):
    try:
        relevance.check_mode(mode, given, config_lib.defaults())
        message = None
    except UserError as error:
        message = str(error)
    assert message == refused if refused is None else refused in message


def test_another_evaluation_drops_stored_settings_without_effect():
    stored = config_lib.flatten(config_lib.make(estimator="ais", ais_steps=9))
    config = config_lib.derive(stored, estimator="diwhvi", eval_M=7)
    assert config.evaluation == config_lib.make(estimator="diwhvi", eval_M=7).evaluation
    with pytest.raises(UserError, match="--ais_chains=9: for --estimator=ais"):
        config_lib.derive(stored, estimator="diwhvi", ais_chains=9)
