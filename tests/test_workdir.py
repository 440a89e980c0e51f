"""A workdir belongs to one run, and to one process at a time."""

import json
import os
import shutil

import pytest

from hvi_tf import config as config_lib
from hvi_tf import files
from hvi_tf import workdir as workdirs
from hvi_tf.errors import UserError

CONFIG = config_lib.make(K=5, epochs=3, jit_compile="off")


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    with pytest.raises(UserError, match=r"another configuration: --K: 5 -> 6; --seed: 0 -> 9"):
        workdirs.reconcile(tmp_path / "w", config_lib.make(K=6, epochs=3, seed=9))


def test_more_epochs_are_the_same_run(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    workdirs.create_or_open(tmp_path / "w", config_lib.make(K=5, epochs=7)).close()
    stored = workdirs.open_existing(tmp_path / "w")
    assert stored.config.training.epochs == 7
    assert stored.config.training.jit_compile == "off"  # kept, though the flag said auto


def test_one_process_at_a_time(tmp_path):
    held = workdirs.create_or_open(tmp_path / "w", CONFIG)
    with pytest.raises(UserError, match="is running there"):
        workdirs.open_existing(tmp_path / "w")
    with pytest.raises(UserError, match="is running there"):
        workdirs.check_not_in_use(tmp_path / "w")
    held.close()
    workdirs.open_existing(tmp_path / "w").close()


def test_a_damaged_config_is_named(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    (tmp_path / "w" / "config.json").write_text('{"data": ')
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        workdirs.reconcile(tmp_path / "w", CONFIG)


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/w \(Not a directory\)"):
        workdirs.create_or_open(tmp_path / "file" / "w", CONFIG)


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="10 MB free on that disk; a run needs 256 MB"):
        workdirs.create_or_open(tmp_path / "w", CONFIG)
    assert not list((tmp_path).glob("w/*"))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_in_a_strangers_folder_leads_nowhere(tmp_path):
    """The lock is written to, and what it may link to is not to be."""
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    mine = tmp_path / "mine"
    mine.write_text("keep")
    (tmp_path / "w" / ".lock").unlink()
    (tmp_path / "w" / ".lock").symlink_to(mine)
    with pytest.raises(UserError, match="cannot write"):
        workdirs.open_existing(tmp_path / "w")
    assert mine.read_text() == "keep"


@pytest.mark.parametrize(
    "provenance",
    [
        3,
        {},
        [3],
        [{}],
        [{"data": 3}],
        [{"data": {"mnist": 3}}],
        [{"data": {"mnist, split sobolev": {"train": 3}}}],
    ],
)
def test_a_strangers_provenance_is_one_line(tmp_path, provenance):
    stored = json.loads(CONFIG.to_json()) | {"provenance": provenance}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="cannot read provenance"):
        workdirs.create_or_open(tmp_path, CONFIG)
    with pytest.raises(UserError, match="cannot read provenance"):
        workdirs.check_same_data(tmp_path, CONFIG)


def test_names_are_readable():
    name = str(workdirs.new_path(config_lib.make(bound="diwhvi", K=7, M=3)))
    assert name.startswith("runs/mnist-diwhvi-K7-M3-seed0-")
    assert "-K" not in str(workdirs.new_path(config_lib.make(bound="vae")))
