"""Tiny models with random settings train, or are refused by one line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from tests.faults import LOG, count, random_configurations, record


def test_every_setting_is_drawn():
    flags = {field.name for field in config_lib.fields() if field.metadata["help"]}
    assert set(random_configurations.DRAWN) == flags


def test_a_few_configurations_train_or_are_refused():
    """They are eager, as most of the long form; other tests run steps in graphs."""
    outcomes = []
    for number in range(12):
        outcome, message = random_configurations.run(0, number, in_graph=False)
        outcomes.append(outcome)
        assert outcome == "trained" or message.startswith("--"), message
    assert outcomes.count("trained") >= 6


@pytest.mark.long
def test_many_configurations_train_or_are_refused():
    """They run in other processes, some in graphs."""
    log = pathlib.Path(os.environ[LOG]) if LOG in os.environ else None
    outcomes = random_configurations.try_all(count(100, 10_000), seed=1, processes=2, log=log)
    record("random configurations", **outcomes)
    assert not outcomes["crashed"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda model, *_: [v.assign(v + 1.0) for v in model.trainable_variables], "has changed"),
        (lambda model, *_: [v.assign(v * 1e39) for v in model.trainable_variables], "not finite"),
    ],
)
def test_a_step_that_fails_or_follows_a_nan_is_a_crash(wrong, message, monkeypatch, capsys):
    """The configuration would train otherwise."""
    from hvi_tf.models.vae import VAE

    def step(model, x):
        wrong(model, x)
        return {"bound": tf.constant(float("nan"))}

    number = next(n for n in range(30) if random_configurations.draw(0, n)[1] is None)
    monkeypatch.setattr(VAE, "train_step", step)
    random_configurations.work(0, [number])
    output = capsys.readouterr().out
    assert '"outcome": "crashed"' in output
    assert message in output


@pytest.mark.parametrize("end", ["os.abort()", "time.sleep(60)"])
def test_a_process_that_dies_or_hangs_is_a_crash_of_one_configuration(end, monkeypatch):
    script = f"import json, os, sys, time; print(sys.argv[1], flush=True); {end}"
    start = subprocess.Popen

    def process(command, **options):
        first = command[command.index("--work") + 1]
        line = json.dumps({"number": int(first), "begun": True})
        return start([sys.executable, "-c", script, line], **options)

    monkeypatch.setattr(subprocess, "Popen", process)
    # Long enough for an interpreter to start on a busy machine.
    monkeypatch.setattr(random_configurations, "SECONDS", 5.0)
    lines = []
    random_configurations.supervise(0, [3, 4], lines.append)
    assert [(line["number"], line["outcome"]) for line in lines] == [(3, "crashed"), (4, "crashed")]


def test_a_refusal_names_the_setting(monkeypatch):
    def refuse(**values):
        raise UserError("no")

    monkeypatch.setattr(config_lib, "make", refuse)
    with pytest.raises(AssertionError, match="names no setting"):
        random_configurations.run(0, 0)
