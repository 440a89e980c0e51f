"""Replicas and workers with the weights of one device and the scores of one process."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.errors import UserError
from hvi_tf.runtime import cluster
from hvi_tf.runtime import replicas as distribution
from tests.oracles import tiny_run

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The norm is so small that every gradient is clipped.
COMMON = dict(batch_size=12, max_steps=4, epochs=3, clip_norm=0.05, eval_images=30)
SAMPLED = dict(eval_M=3, eval_K=2)
LEVERS = dict(optimizer="adamw", ema_decay=0.9, tau_steps=1, lr_warmup_steps=2)
RUNS = {
    "iwhvi": dict(bound="iwhvi", K=3, gradient="dreg", **LEVERS, **SAMPLED),
    "bsvi": dict(bound="bsvi", svi_steps=2, sir=True, double_sampling=True, eval_steps=2),
    # zeta comes from p(zeta), which does not depend on the batch. Clipping would hide a wrong
    # scale. Adam hides it in the weights, but not in its moments.
    "dsivi": dict(bound="dsivi", K=2, L=2, clip_norm=0.0, eval_L=2, **SAMPLED),
    "mixture": dict(bound="diwhvi-mixture", K=3, M=2, **SAMPLED),
}
SCORED = ("iwhvi", "mixture")
ROLLED_BACK = COMMON | RUNS["iwhvi"] | dict(on_nonfinite="rollback")


def environment(**more):
    # One GPU would be too few devices, and its arithmetic differs.
    return {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), **more}


def start(strategy, jobs, **more):
    replicas = "2" if strategy == "mirrored" else "0"
    return subprocess.Popen(
        [sys.executable, "-m", "tests.oracles.tiny_run", strategy, replicas, json.dumps(jobs)],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start_workers(jobs, count=2):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    workers = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return [
        start(
            "multiworker",
            jobs,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": workers}, "task": {"type": "worker", "index": i}}
            ),
        )
        for i in range(count)
    ]


def finish(processes):
    try:
        outputs = [process.communicate(timeout=900)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    # All outputs are printed, because they show which process failed first.
    failed = any(process.returncode for process in processes)
    assert not failed, "\n\n".join(out[-3000:] for out in outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs the same jobs by every strategy; returns the folder of their results.

    The folder has the subfolders `one`, `mirrored` and `multiworker`. Each strategy trains, and
    scores a copy of the weights that one device has trained. It also gets a batch that it cannot
    share, and a step with one replica that is not finite, to stop at or to roll back.
    """
    folder = tmp_path_factory.mktemp("distribution")
    for name, values in RUNS.items():
        tiny_run.run(COMMON | values, folder / "one" / name)
    tiny_run.run(ROLLED_BACK, folder / "one" / "rolled", 0)
    running = []
    for strategy in ("mirrored", "multiworker"):
        own = folder / strategy
        jobs = [(COMMON | values, str(own / name)) for name, values in RUNS.items()]
        if strategy == "multiworker":
            jobs = jobs[:1]
        for name in SCORED:
            scored = own / f"scored-{name}"
            shutil.copytree(folder / "one" / name, scored)
            shutil.rmtree(scored / "evaluation")
            jobs.append((COMMON | RUNS[name], str(scored)))
        jobs.append((COMMON | RUNS["iwhvi"] | dict(batch_size=13), str(own / "uneven")))
        jobs.append((COMMON | RUNS["iwhvi"], str(own / "spoiled"), 1))
        jobs.append((ROLLED_BACK, str(own / "rolled"), 1))
        own.mkdir(exist_ok=True)
        running += start_workers(jobs) if strategy == "multiworker" else [start(strategy, jobs)]
    finish(running)
    return folder


CASES = [("mirrored", name) for name in (*RUNS, "rolled")]
CASES += [("multiworker", name) for name in ("iwhvi", "rolled")]


def state(path):
    stored = np.load(path.with_suffix(".npz"), allow_pickle=False)
    assert str(stored["error"]) == ""
    return {name: stored[name] for name in stored.files if name.startswith(("state", "metrics"))}


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "name"), CASES)
def test_weights_and_optimizer_equal_those_of_one_device(folder, strategy, name):
    expected, actual = (state(folder / s / name) for s in ("one", strategy))
    assert expected.keys() == actual.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.long
def test_a_strategy_of_one_device_changes_nothing(folder, tmp_path):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        tiny_run.run(COMMON | RUNS["iwhvi"], tmp_path / "single")
    expected, actual = state(folder / "one" / "iwhvi"), state(tmp_path / "single")
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=1e-6, atol=1e-7, err_msg=key)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
@pytest.mark.parametrize("name", SCORED)
def test_scores_equal_those_of_one_process(folder, strategy, name):
    """Compares scores of the same weights bit for bit, with the images split in other ways."""
    expected = np.load(folder / "one" / f"{name}.npz", allow_pickle=False)
    actual = np.load(folder / strategy / f"scored-{name}.npz", allow_pickle=False)
    names = [n for n in expected.files if n.startswith("score_")]
    assert len(names) > 3
    for key in names:
        np.testing.assert_array_equal(actual[key], expected[key], err_msg=key)


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
def test_a_batch_that_cannot_be_shared_is_refused(folder, strategy):
    stored = np.load(folder / strategy / "uneven.npz", allow_pickle=False)
    assert "--batch_size=13: 2 replicas cannot share it evenly; give 12 or 14" in str(
        stored["error"]
    )
    assert not (folder / strategy / "uneven").exists()


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["mirrored", "multiworker"])
def test_one_bad_replica_stops_all_before_the_weights_change(folder, strategy):
    stored = np.load(folder / strategy / "spoiled.npz", allow_pickle=False)
    assert re.match(r"step 2: \w+ is nan", str(stored["error"]))
    assert stored["steps"] == 1
    for name in stored.files:
        assert stored[name].dtype.kind == "U" or np.isfinite(stored[name]).all(), name


@pytest.mark.parametrize("make", [randomness.normal, randomness.uniform])
def test_shares_of_noise_are_rows_of_the_whole(make):
    axis = -2 if make is randomness.normal else -1
    whole = [3, 2, 12, 5] if axis == -2 else [3, 12]
    own = [3, 2, 4, 5] if axis == -2 else [3, 4]
    seed = tf.constant([1, 2])
    expected = make(whole, seed, tf.float32)
    shares = []
    for i in range(3):
        with randomness.share(tf.constant(i), 3):
            shares.append(make(own, seed, tf.float32))
    np.testing.assert_array_equal(tf.concat(shares, axis), expected)


def test_without_a_strategy_nothing_is_exchanged():
    assert distribution.replicas() == 1
    assert distribution.is_chief()
    assert distribution.any_worker(True)
    assert not distribution.any_worker(False)


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        ({}, ("many", 0, "w"), "--strategy=many: choose one, mirrored or multiworker"),
        ({}, ("one", 2, "w"), "--replicas=2: for --strategy=mirrored"),
        ({}, ("multiworker", 0, "w"), "neither TF_CONFIG nor Slurm names the workers"),
        ({"TF_CONFIG": "{}"}, ("multiworker", 0, "w"), "TF_CONFIG={}: KeyError"),
        ({"SLURM_JOB_ID": "7"}, ("multiworker", 0, "w"), "start it by srun"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
            ("multiworker", 0, ""),
            "name the run's --workdir",
        ),
    ],
)
def test_an_invalid_cluster_is_refused(variables, arguments, message, monkeypatch):
    for name in ("TF_CONFIG", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(message)):
        cluster.check(*arguments)


def test_workers_are_counted_from_the_chief(monkeypatch):
    addresses = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": addresses, "task": task}))
    assert cluster.check("multiworker", 0, "w") == cluster.Member(2, 3)
