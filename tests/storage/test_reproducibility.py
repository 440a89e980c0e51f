"""The check of determinism, and the provenance of the numbers of a run."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.cli import report
from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.config.settings import DataConfig
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.storage import origins, provenance
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import determinism
from tests.faults.tiny import CONFIG, DATA


def test_ten_steps_give_the_same_bits_twice():
    line = determinism.check(CONFIG, DATA)
    assert re.match(r"10 steps twice: .* are the same bit for bit \(\d\d+ arrays\)\.", line)


def test_the_error_names_a_weight_that_differs(monkeypatch):
    """Changes a gradient slightly in the second run, as an unordered sum on a GPU does."""
    update, models = VAE.update, []

    def noisy(model, gradients):
        if model not in models:
            models.append(model)
        late = tf.cast(model.optimizer.iterations > 7, tf.float32)
        theta = [(1.0 + (len(models) > 1) * late * 1e-6) * g for g in gradients.theta]
        update(model, gradients._replace(theta=theta))

    monkeypatch.setattr(VAE, "update", noisy)
    with pytest.raises(
        UserError, match=r"steps twice differ in \d+ of \d+ arrays, in weight decoder/\d+ by"
    ):
        determinism.check(CONFIG, DATA)


def test_a_training_that_stops_early_is_not_called_deterministic():
    config = config_lib.make(**config_lib.flatten(CONFIG) | dict(learning_rate=1e37))
    with pytest.raises(UserError, match=r"--check_determinism: step \d was not finite; try a"):
        determinism.check(config, DATA)


def test_a_run_stores_the_provenance_of_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hvi_tf.main", "--bound=iwhvi"])
    monkeypatch.setattr(provenance, "_data", {})
    provenance.record_data(CONFIG.data, DATA.digests())
    provenance.record_data(DataConfig(dataset="omniglot"), {"train": "of another run"})
    for _ in range(2):  # the second command adds no record
        workdirs.create_or_open(tmp_path, CONFIG).close()
    (origin,) = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert origin["flags"] == ["--bound=iwhvi"]
    assert origin["versions"]["tensorflow"] == tf.__version__
    assert origin["commit"] == provenance.commit()
    assert origin["data"] == {"mnist, split sobolev": DATA.digests()}
    assert {"date", "machine"} < origin.keys()
    assert workdirs.open_existing(tmp_path, writes=False).config == CONFIG
    # A command with other flags that resumes the run.
    monkeypatch.setattr(sys, "argv", ["hvi_tf.main", "--bound=iwhvi", "--epochs=3"])
    workdirs.create_or_open(tmp_path, CONFIG).close()
    origins = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert [len(o["flags"]) for o in origins] == [1, 2]
    source = f"mnist, split sobolev: train SHA-256 {DATA.digests()['train']}"
    assert source in report._source(origins[0])


def git(folder, *arguments):
    about = ("-c", "user.name=a", "-c", "user.email=a", "-c", "commit.gpgsign=false")
    command = ["git", "-C", folder, *about, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_only_a_repository_that_tracks_the_sources_names_the_commit(tmp_path, monkeypatch):
    """Ignores a repository around the installed package, and the repository of a git hook."""
    source = tmp_path / "venv" / "hvi_tf" / "provenance.py"
    source.parent.mkdir(parents=True)
    source.write_text("")
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another program")
    monkeypatch.setattr(provenance, "__file__", str(source))
    commit = provenance.commit.__wrapped__
    assert commit() == "unknown"
    git(tmp_path, "add", "venv")
    git(tmp_path, "commit", "-q", "-m", "with this package")
    own = git(tmp_path, "rev-parse", "HEAD")
    assert own.startswith(commit())
    source.write_text("changed")
    assert commit().endswith("-dirty")
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "provenance.py").write_text("")
    git(other, "add", "provenance.py")
    git(other, "commit", "-q", "-m", "another")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert own.startswith(commit().removesuffix("-dirty"))


def test_the_number_of_provenance_records_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(origins, "MAX_ORIGINS", 3)
    for i in range(6):
        monkeypatch.setattr(sys, "argv", ["hvi_tf.main", f"--seed={i}"])
        workdirs.create_or_open(tmp_path, CONFIG).close()
    records = json.loads((tmp_path / "config.json").read_text())["provenance"]
    assert [o["flags"] for o in records] == [[f"--seed={i}"] for i in (0, 4, 5)]


def test_a_run_without_provenance_resumes(tmp_path):
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    workdirs.create_or_open(tmp_path, CONFIG).close()
    assert Config.from_json((tmp_path / "config.json").read_text()) == CONFIG


def test_digests_depend_on_pixels_shapes_and_types():
    digests = DATA.digests()
    assert DATA._replace(train=DATA.train.copy()).digests() == digests
    others = (
        DATA.train[::-1],
        DATA.train.reshape(-1, 4, 4),
        DATA.train.astype(np.int8),
        np.where(np.arange(16) == 3, DATA.train ^ 1, DATA.train),
    )
    for other in others:
        assert DATA._replace(train=other).digests()["train"] != digests["train"]


def test_the_identity_digest_depends_only_on_settings_that_make_a_run():
    """Checks that the digest does not depend on settings of storage or of resuming."""
    digest = identity.identity_digest(CONFIG)
    flat = config_lib.flatten(CONFIG)
    for same in (dict(keep_checkpoints=1), dict(on_nonfinite="skip"), dict(epochs=9)):
        assert identity.identity_digest(config_lib.make(**flat | same)) == digest
    for other in (dict(seed=1), dict(K=3), dict(learning_rate=1e-4), dict(precision="bfloat16")):
        assert identity.identity_digest(config_lib.make(**flat | other)) != digest
