"""A step that is not finite is found at once, diagnosed and, if wanted, survived."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.bounds import LogDensities
from hvi_tf.config import config as config_lib
from hvi_tf.config.schedules import ScheduleValues
from hvi_tf.data import pipeline
from hvi_tf.errors import UserError
from hvi_tf.models import metrics
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import npz
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import loop, nonfinite, recovery, replay
from hvi_tf.training.checkpoints import Checkpoints
from tests.faults import tiny
from tests.faults.tiny import COMMON, CONFIG, DATA, IMAGES, Run


def spoil_steps(model, steps):
    """Puts NaN pixels into the batches of these steps (from 1), as a bad disk may."""
    differentiate = model.differentiate

    def spoiled(x, *rest):
        bad = tf.reduce_any(tf.equal(model.optimizer.iterations + 1, list(steps)))
        return differentiate(tf.where(bad, float("nan"), x), *rest)

    model.differentiate = spoiled


def spoil_gradient(model, step):
    """Makes one gradient of a step (from 1) NaN, but not its loss."""
    differentiate = model.differentiate

    def spoiled(*arguments):
        reported, gradients = differentiate(*arguments)
        factor = tf.where(tf.equal(model.optimizer.iterations + 1, step), float("nan"), 1.0)
        theta = [factor * gradients.theta[0], *gradients.theta[1:]]
        gradients = gradients._replace(theta=theta)
        return reported | metrics.gradient_norms(gradients), gradients

    model.differentiate = spoiled


def spoil_update(model, step, value=float("nan")):
    """Makes the update of a step (from 1) set weights to this value."""
    update = model.update

    def spoiled(gradients):
        update(gradients)
        weight = model.trainable_variables[3]
        bad = tf.equal(model.optimizer.iterations, step)
        weight.assign(tf.where(bad, value, weight))

    model.update = spoiled


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stop_names_the_step_and_keeps_earlier_checkpoints(tmp_path):
    run = Run(tmp_path, lambda model: spoil_steps(model, [6]))
    with pytest.raises(UserError, match=r"^step 6: \w+ is nan; dumped as .*step_6.npz; training"):
        run.train()
    assert int(run.model.optimizer.iterations) == 5  # and takes no step after it
    assert [p.name for p in (tmp_path / "checkpoints").glob("*.index")] == ["ckpt-4.index"]
    # Without the cause, the run ends as any other.
    run._spoil = lambda model: None
    run.train()
    unbroken = Run(tmp_path / "unbroken")
    unbroken.train()
    assert_same(run.weights, unbroken.weights)


@pytest.mark.usefixtures("eager")
def test_skip_keeps_the_weights_and_continues_with_the_next_step(tmp_path, capsys):
    run = Run(tmp_path, lambda model: spoil_steps(model, [6]))
    assert run.train(on_nonfinite="skip").steps == 12
    assert "step 6: " in capsys.readouterr().out
    assert int(run.model.optimizer.iterations) == 12
    assert all(np.isfinite(w).all() for w in run.weights)
    # All other steps are those of a run whose step 6 does nothing.
    by_hand = make_vae(CONFIG, 16)
    for step in range(1, 13):
        if step == 6:
            by_hand.optimizer.iterations.assign(6)
            continue
        by_hand.set_schedule(*CONFIG.schedule((step - 1) // 4))
        index = tf.constant(step - 1, tf.int64)
        by_hand.train_step(pipeline.training_batch(tf.constant(DATA.train), 10, 0, index))
    for a, b in zip(run.model.variables, by_hand.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert all(np.isfinite(line["train/bound"]) for line in lines)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(("spoiled", "back_to"), [(7, 4), (2, 0)])
def test_rollback_restores_the_state_of_the_last_checkpoint(
    spoiled, back_to, tmp_path, capsys, monkeypatch
):
    """Without a checkpoint it restores the start, with the moments but not the step number."""
    run, taken = Run(tmp_path / "run", lambda model: spoil_steps(model, [spoiled])), []
    roll_back = Checkpoints.roll_back

    def state(model):
        steps = model.optimizer.iterations
        variables = [*model.variables, *model.optimizer.variables]
        return [v.numpy() for v in variables if v is not steps]

    def rolled_back(self):
        found = roll_back(self)
        taken.extend(state(run.model))
        return found

    monkeypatch.setattr(Checkpoints, "roll_back", rolled_back)
    assert run.train(on_nonfinite="rollback").steps == 12
    assert f"the weights of step {back_to}" in capsys.readouterr().out
    assert int(run.model.optimizer.iterations) == 12
    saved = make_vae(CONFIG, 16)
    if back_to:
        before = Run(tmp_path / "saved")
        before.train(max_steps=back_to)
        saved = before.model
    assert len(taken) > len(saved.variables)
    assert_same(taken, state(saved))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_gradient_that_is_not_finite_changes_no_weight(policy, tmp_path, capsys):
    run = Run(tmp_path, lambda model: spoil_gradient(model, 6))
    found = r"step 6: gradient_norm_theta is nan; dumped as"
    if policy == "stop":
        with pytest.raises(UserError, match=found):
            run.train()
        assert int(run.model.optimizer.iterations) == 5
    else:
        assert run.train(on_nonfinite=policy).steps == 12
        assert re.search(found, capsys.readouterr().out)
    assert all(np.isfinite(w).all() for w in run.weights)
    _, _, shown = replay.replay(tmp_path / "nonfinite" / "step_6.npz")
    assert shown is None  # all terms and weights in the dump are finite


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("policy", ["skip", "rollback"])
# Within an epoch, before and after the second step that is not finite.
@pytest.mark.parametrize("broken_off", [5, pytest.param(7, marks=pytest.mark.long)])
def test_a_run_that_survived_a_step_resumes_bit_identically(tmp_path, policy, broken_off):
    def spoil(model):
        spoil_steps(model, [3, 6])

    unbroken, broken = Run(tmp_path / "one", spoil), Run(tmp_path / "two", spoil)
    unbroken.train(on_nonfinite=policy)
    broken.train(on_nonfinite=policy, max_steps=broken_off, keep_checkpoints=1)
    broken.train(on_nonfinite=policy, keep_checkpoints=1)
    assert_same(unbroken.weights, broken.weights)


@pytest.mark.usefixtures("eager")
def test_an_epoch_without_a_finite_step_is_logged_without_means(tmp_path):
    run = Run(tmp_path, lambda model: spoil_steps(model, [1, 2, 3, 4]))
    run.train(on_nonfinite="skip", outer_warmup_epochs=2.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert ["train/bound" in line for line in lines] == [False, True, True]


@pytest.mark.usefixtures("eager")
def test_an_infinite_validation_bound_is_not_the_best(tmp_path, monkeypatch):
    bounds, validate = iter([-5.0, float("inf"), -4.0]), loop.validate
    monkeypatch.setattr(
        loop, "validate", lambda *a: validate(*a)._replace(log_likelihood=next(bounds))
    )
    Run(tmp_path).train(on_nonfinite="skip")
    assert [p.name for p in (tmp_path / "best").glob("*.index")] == ["ckpt-12.index"]


@pytest.mark.usefixtures("eager")
def test_weights_that_an_update_makes_nonfinite_are_found_in_that_step(tmp_path):
    run = Run(tmp_path, lambda model: spoil_update(model, 6))
    name = r"step 6: the weight \S+ is nan; dumped"
    for policy in ("stop", "skip"):  # no sound weights are left to skip to
        with pytest.raises(UserError, match=name):
            run.train(on_nonfinite=policy)
    assert run.train(on_nonfinite="rollback").steps == 12
    assert all(np.isfinite(w).all() for w in run.weights)
    _, _, shown = replay.replay(tmp_path / "nonfinite" / "step_6.npz")
    assert shown.of_weights
    assert shown.term == run.about["term"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_weights_with_an_infinite_norm_are_not_finite(tmp_path, policy):
    run = Run(tmp_path, lambda model: spoil_update(model, 6, 1e30))
    with pytest.raises(UserError, match=r"step 6: weight_norm is inf; dumped"):
        run.train(on_nonfinite=policy)
    _, _, shown = replay.replay(tmp_path / "nonfinite" / "step_6.npz")
    assert shown.of_weights
    assert shown.term == "weight_norm"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_every_policy_stops_after_too_many_steps(tmp_path, policy, monkeypatch):
    monkeypatch.setattr(recovery, "MAX_IN_EPOCH", 2)
    run = Run(tmp_path, lambda model: spoil_steps(model, [5, 6, 7]))
    with pytest.raises(UserError, match=r"step 7: .*; 3 such steps in this epoch; training"):
        run.train(on_nonfinite=policy)


@pytest.mark.usefixtures("eager")
def test_a_dump_is_small_and_replays_the_step(tmp_path, monkeypatch):
    """One image has NaN pixels, which the checks of a data set would refuse."""
    run = Run(tmp_path)
    train = (DATA.train > 127).astype(np.float32)
    train[7] = np.nan
    monkeypatch.setattr(tiny, "DATA", DATA._replace(train=train))
    monkeypatch.setitem(pipeline._OBSERVATIONS, "bernoulli", lambda images, seed: images)
    with pytest.raises(UserError, match=r"step \d+: \w+ is (nan|inf|-inf); dumped as"):
        run.train()
    about = run.about
    assert about["training_images"] == [7]
    assert about["images_in_all"] == 1
    (path,) = (tmp_path / "nonfinite").glob("step_*.npz")
    assert path.stat().st_size < 100_000
    config, step, found = replay.replay(path)
    assert found.term == about["term"]
    assert step.rows[found.images].tolist() == [7]
    assert config.method.bound == "iwhvi"
    command = [sys.executable, "-m", "hvi_tf.training.replay", str(path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert f"{about['term']} is {about['value']} for 1 training image: [7]" in process.stdout


def test_a_dump_of_something_else_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"step_3\.npz: no such file; give nonfinite/step_N"):
        replay.replay(tmp_path / "nonfinite" / "step_3.npz")
    workdirs.create_or_open(tmp_path, CONFIG).close()
    (tmp_path / "nonfinite").mkdir()
    for content in (b"", b"PK\x03\x04", b"x" * 100):
        path = tmp_path / "nonfinite" / "step_3.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a dump of this run"):
            replay.replay(path)


@pytest.mark.parametrize(
    "wrong",
    [
        *(dict(x=np.zeros((3, 16))), dict(x=np.zeros(16, np.float32)), dict(rows=np.arange(2))),
        *(dict(rows=np.zeros(3)), dict(number=0), dict(number=1e30), dict(number="a")),
        *(dict(schedule=np.array([-5.0, 1.0, 1.0, 0.1])), dict(schedule=np.zeros(2))),
        *(dict(schedule=np.full(4, np.nan)), dict(of_weights=np.zeros(2))),
    ],
)
def test_a_dump_of_other_arrays_is_an_error(wrong, tmp_path):
    workdirs.create_or_open(tmp_path, CONFIG).close()
    (tmp_path / "nonfinite").mkdir()
    path = tmp_path / "nonfinite" / "step_3.npz"
    x = np.zeros((3, 16), np.float32)
    right = dict(x=x, rows=np.arange(3), number=3, schedule=np.array([2.0, 1.0, 1.0, 0.1]))
    right["of_weights"] = False
    weights = {f"weight/{n}": v.numpy() for n, v in make_vae(CONFIG, 16).weights_by_name.items()}
    npz.write_arrays(path, right | weights)
    replay.replay(path)
    npz.write_arrays(path, right | wrong | weights)
    with pytest.raises(UserError, match="not a dump of this run"):
        replay.replay(path)


def test_a_failed_dump_does_not_hide_the_step(tmp_path):
    workdirs.create_or_open(tmp_path, CONFIG).close()
    (tmp_path / "nonfinite").touch()  # a file, not a folder
    run = Run(tmp_path, lambda model: spoil_steps(model, [3]))
    with pytest.raises(UserError, match=r"^step 3: \w+ is nan; not dumped: .*File exists"):
        run.train()


@pytest.mark.usefixtures("eager")
def test_the_number_of_dumps_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "MAX_DUMPS", 1)
    Run(tmp_path, lambda model: spoil_steps(model, [3, 6])).train(on_nonfinite="skip")
    assert len(list((tmp_path / "nonfinite").iterdir())) == 2  # one dump, of two files


@pytest.mark.parametrize(
    ("network", "bound", "term"),
    [
        ("decoder", "iwhvi", "log_likelihood"),
        ("inverse", "iwhvi", "log_tau"),
        ("encoder", "iwhvi", "log_q_z"),  # q(psi|x) has no weights
        ("encoder", "vae", "log_q_z"),
        ("prior_decoder", "dsivi", "log_prior"),
        ("encoder", "bsvi", "log_q_z"),
        ("decoder", "bsvi", "log_likelihood"),
    ],
)
def test_the_first_term_that_is_not_finite_is_named(network, bound, term):
    counts = dict(K=3) if bound in ("iwhvi", "dsivi") else {}
    config = config_lib.derive(COMMON | {"K": None}, bound=bound, **counts)
    model = make_vae(config, 16)
    x = tf.constant((IMAGES[:6] > 127).astype(np.float32))
    step = nonfinite.Step(1, x, np.arange(6), ScheduleValues(counts.get("K", 0), 1.0, 1.0, 0.1))
    assert nonfinite.first_term(nonfinite.densities(model, step)) is None
    for weight in model.networks[network].variables:
        weight.assign(tf.fill(weight.shape, float("nan")))
    assert nonfinite.first_term(nonfinite.densities(model, step)).term == term


def test_terms_are_examined_in_the_order_of_computation():
    """psi_0 and its z come first, psi_1:K last; the finding has the image."""
    shapes = dict(
        log_likelihood=(1, 4), log_prior=(1, 1, 4), log_q_z=(3, 1, 4), log_q_psi=(3, 1, 4)
    )
    finite = {name: np.zeros(shape) for name, shape in (shapes | {"log_tau": (3, 1, 4)}).items()}

    def first(**bad):
        arrays = {name: value.copy() for name, value in finite.items()}
        for name, index in bad.items():
            arrays[name][index] = np.nan
        found = nonfinite.first_term(LogDensities(**{n: tf.constant(a) for n, a in arrays.items()}))
        return found.term, found.images.tolist()

    everywhere = slice(None)
    assert first(log_likelihood=(0, 2), log_tau=everywhere) == ("log_likelihood", [2])
    assert first(log_q_z=(0, 0, 1), log_likelihood=everywhere) == ("log_q_z", [1])
    assert first(log_tau=(2, 0, 3), log_q_psi=(2, 0, 3)) == ("log_tau", [3])
    assert first(log_q_psi=(0, 0, 0), log_q_z=everywhere) == ("log_q_psi", [0])
    assert first(log_q_psi=(1, 0, 0)) == ("log_q_psi", [0])


@pytest.mark.parametrize("jit_compile", ["off", "on"])
def test_a_replayed_step_has_the_densities_of_the_training(jit_compile):
    """The examined densities are those that the step computed."""
    config = config_lib.make(**config_lib.flatten(CONFIG) | dict(jit_compile=jit_compile))
    model = make_vae(config, 16)
    x = tf.constant((IMAGES[:10] > 127).astype(np.float32))
    metrics = model.train_step(x)  # step 1, at the first weights
    fresh = make_vae(config, 16)
    step = nonfinite.Step(1, x, np.arange(10), config.schedule(0))
    densities = nonfinite.densities(fresh, step)
    np.testing.assert_allclose(metrics["log_tau"], np.mean(densities.log_tau), rtol=1e-5)
