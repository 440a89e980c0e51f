"""The SavedModel runs where only TensorFlow is installed."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.methods import Counts
from hvi_tf.models.export import SIGNATURES, export
from hvi_tf.models.vae import make_vae

X = np.eye(12, dtype=np.float32)[:5]

# A fresh process in which this package, TFP and tf_keras cannot be imported.
CONSUMER = """
import sys
for name in ("hvi_tf", "tensorflow_probability", "tf_keras"):
    sys.modules[name] = None
import json
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
x, seed = tf.eye(12)[:5], tf.constant([3, 4])
z = model.encode(x, seed)["z"]
weights = model.signatures["log_weights"](
    x=x, M=tf.constant(7), K=tf.constant(3), seed=seed)["log_weights"]
print(json.dumps({
    "signatures": sorted(model.signatures),
    "z": z.numpy().tolist(),
    "mean": model.decode(z)["mean"].numpy().tolist(),
    "sample": model.sample(tf.constant(2), seed)["mean"].shape.as_list(),
    "log_weights": weights.numpy().tolist(),
}))
"""


@pytest.mark.parametrize("bound", ["iwhvi", "vae"])
def test_round_trip_in_a_fresh_process(bound, tmp_path):
    config = config_lib.derive(dict(hidden=(8, 8), latent_dim=3, aux_dim=2), bound=bound)
    model = make_vae(config, 12)
    export(model, tmp_path / "saved_model")
    command = [sys.executable, "-c", CONSUMER, str(tmp_path / "saved_model")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    loaded = json.loads(run.stdout.splitlines()[-1])

    seed = tf.constant([3, 4])
    z = model.encode(X, seed)
    assert loaded["signatures"] == sorted(SIGNATURES)
    np.testing.assert_allclose(loaded["z"], z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loaded["mean"], model.decode(z), rtol=1e-5, atol=1e-6)
    assert loaded["sample"] == [2, 12]
    draw = sampling.draw(model.callables, model.method, X, Counts(K=3, M=7), seed)
    densities = densities_lib.log_densities(model.callables, model.method, X, draw)
    expected = bounds.outer_log_weights(densities)
    assert np.shape(loaded["log_weights"]) == (7, 5)
    np.testing.assert_allclose(loaded["log_weights"], expected, rtol=1e-4)


@pytest.mark.parametrize("fails", ["save", "rename"])
def test_a_failed_export_keeps_the_old_one(fails, tmp_path, monkeypatch):
    config = config_lib.make(hidden=(8, 8), latent_dim=3, aux_dim=2)
    model = make_vae(config, 12)
    path = tmp_path / "saved_model"
    export(model, path)
    before = {p.relative_to(path): p.stat().st_mtime_ns for p in path.rglob("*")}
    save, rename = tf.saved_model.save, pathlib.Path.rename

    def half_saved(*arguments, **keywords):
        save(*arguments, **keywords)
        raise OSError(28, "No space left on device")

    def not_renamed(self, target):
        if target == path and self.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    if fails == "save":
        monkeypatch.setattr(tf.saved_model, "save", half_saved)
    else:
        monkeypatch.setattr(pathlib.Path, "rename", not_renamed)
    with pytest.raises(UserError, match=r"cannot write .*saved_model"):
        export(model, path)
    assert {p.relative_to(path): p.stat().st_mtime_ns for p in path.rglob("*")} == before
    assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]


def test_another_export_replaces_the_old_one(tmp_path):
    config = config_lib.make(hidden=(8, 8), latent_dim=3, aux_dim=2)
    model = make_vae(config, 12)
    export(model, tmp_path / "saved_model")
    first = tf.saved_model.load(str(tmp_path / "saved_model"))
    before = first.decode(tf.zeros([1, 3]))["mean"]
    model.decoder.later_layers[-1].bias.assign(tf.fill([12], 3.0))
    export(model, tmp_path / "saved_model")
    second = tf.saved_model.load(str(tmp_path / "saved_model"))
    after = second.decode(tf.zeros([1, 3]))["mean"]
    assert not np.allclose(before, after)
    assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]


def test_an_export_creates_no_variable(tmp_path):
    """Only the chief worker exports, and a new variable would wait for the others."""
    made = []

    def record(create, **arguments):
        made.append(create(**arguments))
        return made[-1]

    model = make_vae(config_lib.derive(dict(hidden=(8, 8), latent_dim=3, aux_dim=2)), 12)
    with tf.variable_creator_scope(record):
        export(model, tmp_path / "saved_model")
    assert made == []
