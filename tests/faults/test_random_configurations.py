"""Tiny models of random settings train, or are refused by one clear line."""

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


def test_a_few():
    """Eager, as most of the long form; a graph is what every other test of a step runs."""
    outcomes = []
    for number in range(12):
        outcome, said = random_configurations.run(0, number, in_graph=False)
        outcomes.append(outcome)
        assert outcome == "trained" or said.startswith("--"), said
    assert outcomes.count("trained") >= 6


@pytest.mark.long
def test_more_of_them():
    """In processes of their own, some in graphs."""
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
def test_what_counts_as_a_crash(wrong, message, monkeypatch, capsys):
    """A configuration that would train, with a step that fails or that a NaN moves, does not."""
    from hvi_tf.models.vae import VAE

    def step(model, x):
        wrong(model, x)
        return {"bound": tf.constant(float("nan"))}

    number = next(n for n in range(30) if random_configurations.draw(0, n)[1] is None)
    monkeypatch.setattr(VAE, "train_step", step)
    random_configurations.work(0, [number])
    told = capsys.readouterr().out
    assert '"outcome": "crashed"' in told
    assert message in told


@pytest.mark.parametrize("end", ["os.abort()", "time.sleep(60)"])
def test_a_process_that_dies_or_hangs_is_a_crash_of_one_configuration(end, monkeypatch):
    begins = f"import json, os, sys, time; print(sys.argv[1], flush=True); {end}"
    start = subprocess.Popen

    def process(command, **options):
        first = command[command.index("--work") + 1]
        line = json.dumps({"number": int(first), "begun": True})
        return start([sys.executable, "-c", begins, line], **options)

    monkeypatch.setattr(subprocess, "Popen", process)
    # For an interpreter to begin, too, on a machine with other work.
    monkeypatch.setattr(random_configurations, "SECONDS", 5.0)
    found = []
    random_configurations.supervise(0, [3, 4], found.append)
    assert [(line["number"], line["outcome"]) for line in found] == [(3, "crashed"), (4, "crashed")]


def test_a_refusal_names_the_setting(monkeypatch):
    def refuse(**values):
        raise UserError("no")

    monkeypatch.setattr(config_lib, "make", refuse)
    with pytest.raises(AssertionError, match="names no setting"):
        random_configurations.run(0, 0)
