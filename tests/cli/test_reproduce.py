"""The command `hvi_tf.reproduce`: its errors, and the same results after a kill."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from hvi_tf.cli import reproduce
from hvi_tf.experiments.harness import catalogue

TINY = {
    "laplace": ["--set=repetitions=3", "--set=steps=3,6", "--set=draws=50", "--set=dim=4"],
    "training-k": [
        *("--set=K=0,2", "--set=epochs=2", "--set=eval_images=20", "--set=eval_M=3"),
        *("--set=eval_K=2", "--set=outer_warmup_epochs=0"),
    ],
}


def start(*arguments):
    command = [sys.executable, "-m", "hvi_tf.reproduce", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def run(*arguments):
    process = start(*arguments)
    out, err = process.communicate(timeout=400)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def measurements(folder):
    """Returns the rows of the CSV without the measured seconds."""
    with open(folder / "results.csv", newline="") as file:
        return [{n: v for n, v in r.items() if n != "seconds"} for r in csv.DictReader(file)]


def kill_when(process, happened, timeout=200):
    """Kills a process by SIGKILL as soon as `happened` returns true."""
    deadline = time.monotonic() + timeout
    while not happened() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Returns the CSV of an uninterrupted run."""
    out = tmp_path_factory.mktemp("unbroken")
    result = run("laplace", *TINY["laplace"], f"--out={out}")
    assert result.returncode == 0, result.stderr[-2000:]
    return measurements(out / "laplace")


@pytest.mark.long
def test_a_killed_experiment_resumes_to_the_same_csv(unbroken, tmp_path):
    broken = tmp_path / "broken"
    arguments = ["laplace", *TINY["laplace"]]
    cells = broken / "laplace" / "cells"
    kill_when(start(*arguments, f"--out={broken}"), (cells / "repetition0" / "rows.json").exists)
    assert not (broken / "laplace" / "results.csv").exists()
    again = run(*arguments, f"--out={broken}")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "[1/3]" not in again.stdout
    assert measurements(broken / "laplace") == unbroken


@pytest.mark.long
def test_two_processes_share_the_work(unbroken, tmp_path):
    both = [start("laplace", *TINY["laplace"], f"--out={tmp_path}") for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert any("Results:" in out for out, _ in outputs)
    assert measurements(tmp_path / "laplace") == unbroken


@pytest.mark.long
def test_a_killed_training_resumes_to_the_same_csv(tmp_path, mnist_dir):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    arguments = ["training-k", *TINY["training-k"], f"--data_dir={mnist_dir}"]
    assert run(*arguments, f"--out={unbroken}").returncode == 0

    def has_a_checkpoint():
        return any((broken / "runs").glob("*/checkpoints/checkpoint"))

    kill_when(start(*arguments, f"--out={broken}"), has_a_checkpoint)
    again = run(*arguments, f"--out={broken}")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "Resuming from step 214 of 428." in again.stdout
    assert measurements(broken / "training-k") == measurements(unbroken / "training-k")


def test_the_list_has_every_experiment_and_its_cost():
    result = run("--list")
    assert result.returncode == 0
    for name, entry in catalogue.ENTRIES.items():
        assert f"{name}: {entry.title} ({entry.source})" in result.stdout
        assert all(getattr(entry, preset) in result.stdout for preset in entry.presets)
    assert "tensorflow" not in result.stderr.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name an experiment, or all; --list lists them"),
        (("laplac",), "laplac: no such experiment; choose from laplace, "),
        (("laplace", "--preset=slow"), "--preset=slow: value should be one of <quick|full|long>"),
        (
            ("likelihood-table", "laplace", "--preset=long"),
            "laplace: has no --preset=long; choose quick or full",
        ),
        (("laplace", "--set=steps"), "--set=steps: must look like --set=NAME=VALUE"),
        (("laplace", "--set=draws=many"), "laplace: --set=draws=many: must be a whole number of"),
        (
            ("laplace", "--cells=seed*"),
            "laplace: no cell matches --cells=seed*; they are named like repetition0",
        ),
        (("laplace", "--set=repetitions=0"), "must be a whole number of at least 1, like 10"),
        (("laplace", "evaluation-metric", "--set=model=x"), "laplace: --set=model=x: unknown"),
    ],
)
def test_a_mistake_prints_one_line_and_writes_nothing(arguments, message, tmp_path):
    result = run(*arguments, f"--out={tmp_path / 'out'}")
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_hints_name_only_existing_results(tmp_path):
    """Checks the hint of the page after an experiment, and of TensorBoard if events exist."""
    out = tmp_path / "my results"
    (out / "runs" / "a").mkdir(parents=True)
    assert reproduce._hints(out) == ""
    (out / "laplace").mkdir()
    (out / "laplace" / "results.json").touch()
    assert f"hvi_tf.report '{out}'" in reproduce._hints(out)
    assert "tensorboard" not in reproduce._hints(out)
    (out / "runs" / "a" / "events.out.tfevents.1.vm").touch()
    assert f"tensorboard '--logdir={out}'" in reproduce._hints(out)


def test_many_names_are_shortened_to_the_first_three_and_the_last():
    assert reproduce._shown(["a"]) == "a"
    assert reproduce._shown(list("abcdef")) == "a, b, c, ..., f"


def test_all_leaves_out_experiments_without_the_preset():
    assert reproduce._with_preset(["all"], "quick") == list(catalogue.ENTRIES)
    assert reproduce._with_preset(["all"], "long") == [
        *("training-k", "likelihood-table", "evaluation-metric", "posterior-collapse"),
        *("bsvi-tables", "bsvi-vs-iwae"),
    ]
    assert reproduce._with_preset(["bsvi-tables", "training-k"], "long") == [
        *("bsvi-tables", "training-k")
    ]


def test_names_are_those_of_the_catalogue():
    assert reproduce._names(["all"]) == list(catalogue.ENTRIES)
    for name, entry in catalogue.ENTRIES.items():
        path = pathlib.Path(*entry.module.split(".")).with_suffix(".py")
        assert (pathlib.Path(__file__).resolve().parents[2] / path).exists(), name
