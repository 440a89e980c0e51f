"""Schedules, averaged weights, free bits, extra steps of tau, and planned epochs."""

import json

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds, randomness
from hvi_tf.cli import modes
from hvi_tf.cli.task import Task
from hvi_tf.config import config as config_lib
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import gradients, sampling
from hvi_tf.inference.counts import NO_WARMUP, Counts, Warmup
from hvi_tf.inference.objective import FreeBits
from hvi_tf.models.export import export
from hvi_tf.models.vae import make_vae
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import fit_tau, loop, planning, runs
from hvi_tf.training.planning import Costs
from hvi_tf.training.validation import validate

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
DATA = Dataset(IMAGES[:40], IMAGES[40:50], IMAGES[50:], (4, 4, 1))
X = tf.constant((IMAGES[:5] > 127).astype(np.float32))
SIZES = dict(hidden=(8, 8), latent_dim=3, batch_size=10, jit_compile="off")
LEVERS = dict(
    **dict(bound="iwhvi", K=2, K_schedule="0%:1,40%:2", gradient="dreg", epochs=3),
    **dict(lr_schedule="cosine", lr_warmup_steps=3, lr_final_fraction=0.1, learning_rate=0.03),
    **dict(optimizer="adamw", ema_decay=0.8, tau_steps=2, outer_free_bits=0.2),
)


def train(folder, **values):
    """Trains a run with these settings, up to `max_steps`."""
    config = config_lib.make(**{**SIZES, **values})
    workdir = workdirs.create_or_open(folder, config)
    try:
        model = make_vae(config, 16)
        loop.train(config, model, DATA, workdir)
        return model, workdir
    finally:
        workdir.close()


def logged(folder):
    """Returns the lines of metrics.jsonl without the speed."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("speed/")} for line in lines]


def state(model):
    states = (v for o in model.all_optimizers for v in o.variables)
    return [v.numpy() for v in (*model.variables, *states)]


COMPILED = dict(LEVERS, jit_compile="on", K_schedule="", tau_steps=0)  # compiles fast


@pytest.mark.parametrize("values", [LEVERS, pytest.param(COMPILED, marks=pytest.mark.long)])
def test_a_run_stopped_within_its_schedules_resumes_bit_identically(tmp_path, values):
    unbroken, _ = train(tmp_path / "unbroken", **values)
    train(tmp_path / "broken", **values, max_steps=6)  # half of the second of three epochs
    resumed, _ = train(tmp_path / "broken", **values)
    for one, other in zip(state(unbroken), state(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = [logged(tmp_path / name) for name in ("unbroken", "broken")]
    assert [line["step"] for line in lines[0]] == [4, 8, 12]
    assert lines[0] == [line for line in lines[1] if line["step"] != 6]  # where it stopped


def test_averages_are_validated_scored_and_exported(tmp_path):
    model, workdir = train(tmp_path, **LEVERS)
    raw = [v.numpy() for v in model.trainable_variables]
    averages = [v.numpy() for v in model.optimizer._model_variables_moving_average]
    with model.averaged():
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            np.testing.assert_array_equal(variable, average)
    for variable, value in zip(model.trainable_variables, raw, strict=True):
        np.testing.assert_array_equal(variable, value)

    run = runs.at_best(workdir.config, make_vae(workdir.config, 16), DATA, workdir)
    images = pipeline.fixed_observation(
        DATA.validation, "bernoulli", 0, randomness.Purpose.VALIDATE
    )
    scored = validate(run.model, images, 0).log_likelihood
    best = max(line["validation/bound"] for line in logged(tmp_path))
    assert scored == pytest.approx(best, abs=1e-5)

    export(run.model, workdir.saved_model)
    loaded = tf.saved_model.load(str(workdir.saved_model))
    counts = dict(M=tf.constant(7), K=tf.constant(3), seed=tf.constant([3, 4]))
    weights = loaded.signatures["log_weights"](x=X, **counts)["log_weights"]
    draw = sampling.draw(run.model.callables, run.model.method, X, Counts(K=3, M=7), counts["seed"])
    densities = densities_lib.log_densities(run.model.callables, run.model.method, X, draw)
    expected = bounds.outer_log_weights(densities)
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-4)


def test_averages_follow_the_recursion():
    config = config_lib.make(**SIZES, bound="vae", ema_decay=0.8)
    model = make_vae(config, 16)
    average = None
    for _ in range(3):
        model.train_step(X)
        weights = model.trainable_variables[0].numpy()
        average = weights if average is None else 0.8 * average + 0.2 * weights
    model.take_averages()
    np.testing.assert_allclose(model.trainable_variables[0], average, rtol=1e-6)


@pytest.mark.usefixtures("eager")
def test_steps_of_tau_change_only_tau_and_raise_the_bound():
    config = config_lib.make(**SIZES, bound="iwhvi", K=2, tau_steps=3, lr_warmup_steps=0)
    model, plain = (
        make_vae(config, 16),
        make_vae(config_lib.derive(config_lib.flatten(config), tau_steps=0), 16),
    )
    metrics = model.train_step(X)
    plain.train_step(X)
    assert float(metrics["tau_steps"]) == 3.0
    for name, variable in model.weights_by_name.items():
        same = np.array_equal(variable, plain.weights_by_name[name])
        assert same == (not name.startswith("inverse")), name
    draws = tf.tile(X, [400, 1])

    def bound(of):
        return float(tf.reduce_mean(of.validation_scores(draws, tf.constant([1, 2])).bound))

    assert bound(model) > bound(plain)


@pytest.mark.usefixtures("eager")
def test_a_step_of_tau_that_is_not_finite_is_skipped(monkeypatch):
    config = config_lib.make(**SIZES, bound="iwhvi", K=2, tau_steps=2)
    model, plain = (
        make_vae(config, 16),
        make_vae(config_lib.derive(config_lib.flatten(config), tau_steps=0), 16),
    )
    tau_gradients = model.tau_gradients

    def spoiled(data, i):
        norm, gradient = tau_gradients(data, i)
        return {name: value * float("nan") for name, value in norm.items()}, gradient

    monkeypatch.setattr(model, "tau_gradients", spoiled)
    metrics = model.train_step(X)
    plain.train_step(X)
    assert float(metrics["tau_steps"]) == 0.0
    for name, variable in model.weights_by_name.items():
        np.testing.assert_array_equal(variable, plain.weights_by_name[name])


def test_a_method_without_tau_refuses_steps_of_tau():
    model = make_vae(config_lib.make(**SIZES, bound="sivi", K=2), 16)
    with pytest.raises(ValueError, match="tau_steps=1: bound='sivi' trains no tau"):
        model.compile("adam", tau_steps=1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["inner", "outer"])
def test_a_term_has_no_gradient_below_its_free_bits_and_a_full_one_above(kind):
    """The thresholds are just below and just above the batch's mean divergence."""
    config = config_lib.make(**SIZES, bound="iwhvi", K=2)
    model = make_vae(config, 16)

    def step(free, warmup=NO_WARMUP):
        objective, ascent = gradients.value_and_gradients(
            model.prepare,
            model.method,
            X,
            model.parameter_groups,
            Counts(K=2),
            tf.constant([1, 2]),
            free_bits=free,
            warmup=warmup,
        )
        return objective, [g.numpy() for group in ascent for g in group]

    objective, whole = step(FreeBits())
    d = objective.densities
    kl = float(tf.reduce_mean((d.log_tau - d.log_q_psi)[1:]))
    if kind == "outer":
        log_q = bounds.log_marginal_upper(bounds.inner_log_ratios(d))
        kl = float(tf.reduce_mean(log_q - d.log_prior[0]))
    assert kl > 1e-3
    _, without = step(FreeBits(), Warmup(**{kind: 0.0}))
    for free, expected in ((0.9 * kl, whole), (1.1 * kl, without)):
        _, found = step(FreeBits(**{kind: free}))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(whole, without, strict=True))


# Plans.


def config_of(**values):
    return config_lib.make(**{**SIZES, "bound": "iwhvi", "K": 2, "minutes": 1.0, **values})


def test_a_plan_is_the_longest_run_that_fits(monkeypatch):
    """An epoch of 20 steps takes 2 s at K=1 and 8 s at K=2; a validation takes 1 s."""
    monkeypatch.setattr(planning, "_REST", 0.0)
    costs = Costs({1: 0.1, 2: 0.4}, 1.0)
    config = config_of(K_schedule="0%:1,50%:2")

    def fitting(seconds):
        return planning._fitting_epochs(config, costs, 20, seconds)

    assert planning._seconds(config, costs, 20, 4) == pytest.approx(2 * 2 + 2 * 8 + 4)
    assert planning._seconds(config, costs, 20, 5) == pytest.approx(3 * 2 + 2 * 8 + 5)
    assert [fitting(s) for s in (2.9, 3.1, 23.9, 24.1, 27.1)] == [0, 1, 3, 4, 5]
    rare = config_of(eval_every=3, K_schedule="0:1")
    assert planning._seconds(rare, costs, 20, 4) == pytest.approx(4 * 2 + 2)
    started = costs._replace(start=5.0)
    assert planning._seconds(rare, started, 20, 4) == pytest.approx(5 + 4 * 2 + 2)


@pytest.mark.long
def test_a_plan_leaves_the_model_as_it_was(monkeypatch, capsys):
    monkeypatch.setattr(planning, "SECONDS", 0.0)
    config = config_of(
        **dict(minutes=600.0, lr_schedule="cosine", tau_steps=1, ema_decay=0.9),
        K_schedule="0%:1,50%:2",
    )
    model = make_vae(config, 16)
    before = state(model)
    planned = planning.plan(config, model, DATA)
    assert planned.training.epochs > config.training.epochs
    assert "Plan: " in capsys.readouterr().out
    for one, other in zip(before, state(model), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_that_does_not_fit_is_an_error(monkeypatch):
    monkeypatch.setattr(planning, "_measure", lambda *arguments: Costs({1: 60.0}, 1.0))
    config = config_of()
    with pytest.raises(UserError, match=r"--minutes=1\.0: one epoch .* take [0-9.]+ minutes here"):
        planning.plan(config, make_vae(config, 16), DATA)


def test_a_planned_run_keeps_its_epochs(tmp_path):
    planned = planning._with_epochs(config_of(), 7)
    workdirs.create_or_open(tmp_path, planned).close()
    assert workdirs.reconcile(tmp_path, config_of()).training.epochs == 7
    with pytest.raises(UserError, match=r"--minutes: 1\.0 -> 2\.0"):
        workdirs.reconcile(tmp_path, config_of(minutes=2.0))


def test_a_planned_fit_of_tau_is_planned_once(tmp_path, monkeypatch):
    """A later command keeps the epochs that the first one planned."""
    _, trained = train(tmp_path, bound="sivi", K=2, epochs=1)
    config = fit_tau.fit_config(trained.config, dict(minutes=1.0))
    planned, trainings = [], []

    class Trained(Exception):
        pass

    def plan(config, model, data):
        planned.append(config.training.epochs)
        return planning._with_epochs(config, 7)

    def record(config, *arguments):
        trainings.append(config.training.epochs)
        raise Trained

    monkeypatch.setattr(modes.planning, "plan", plan)
    monkeypatch.setattr(modes.runs, "train_to_best", record)
    for _ in range(2):
        with pytest.raises(Trained):
            modes._train(Task("fit_tau", config, tmp_path, trained, {}), DATA, StartUp(0.0))
    assert planned == [7_000]
    assert trainings == [7, 7]


def test_a_run_with_a_decaying_learning_rate_takes_no_more_epochs(tmp_path):
    def reconcile(**values):
        return workdirs.reconcile(tmp_path, config_lib.make(**SIZES, **values))

    decaying = dict(bound="vae", lr_schedule="linear")
    workdirs.create_or_open(tmp_path, config_lib.make(**SIZES, **decaying, epochs=3)).close()
    with pytest.raises(UserError, match="--epochs: 3 -> 4"):
        reconcile(**decaying, epochs=4)
    assert reconcile(**decaying, epochs=3, patience=2).training.patience == 2
