"""Workdirs, each of one run and open in one process at a time."""

import json
import os
import shutil

import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from hvi_tf.storage import files, origins
from hvi_tf.storage import workdir as workdirs

ENDLESS = dict(lr_schedule="exponential")  # allows more epochs later
CONFIG = config_lib.make(K=5, epochs=3, jit_compile="off", **ENDLESS)


def test_the_error_lists_the_settings_of_another_configuration(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    with pytest.raises(UserError, match=r"another configuration: --K: 5 -> 6; --seed: 0 -> 9"):
        workdirs.reconcile(tmp_path / "w", config_lib.make(K=6, epochs=3, seed=9, **ENDLESS))


def test_more_epochs_are_the_same_run(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    workdirs.create_or_open(tmp_path / "w", config_lib.make(K=5, epochs=7, **ENDLESS)).close()
    stored = workdirs.open_existing(tmp_path / "w")
    assert stored.config.training.epochs == 7
    assert stored.config.training.jit_compile == "off"  # kept, although the flag is auto


def test_one_process_at_a_time_opens_a_workdir(tmp_path):
    held = workdirs.create_or_open(tmp_path / "w", CONFIG)
    with pytest.raises(UserError, match="is running there"):
        workdirs.open_existing(tmp_path / "w")
    with pytest.raises(UserError, match="is running there"):
        workdirs.check_not_in_use(tmp_path / "w")
    held.close()
    workdirs.open_existing(tmp_path / "w").close()


def test_the_error_names_a_damaged_config(tmp_path):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    (tmp_path / "w" / "config.json").write_text('{"data": ')
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        workdirs.reconcile(tmp_path / "w", CONFIG)


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("content", ['{"data": ', "[1]", "\xff", '{"provenance": 3}'])
def test_no_process_opens_a_damaged_config(tmp_path, content, writes):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    (tmp_path / "w" / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"^--workdir="):
        workdirs.create_or_open(tmp_path / "w", CONFIG, writes=writes)


def test_the_error_names_an_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/w \(Not a directory\)"):
        workdirs.create_or_open(tmp_path / "file" / "w", CONFIG)


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a link", lambda lock, mine: lock.symlink_to(mine)),
        ("a hard link", lambda lock, mine: lock.hardlink_to(mine)),
        ("a folder", lambda lock, mine: lock.mkdir()),
        ("a FIFO", lambda lock, mine: os.mkfifo(lock)),
    ],
)
def test_a_lock_that_is_not_a_file_of_its_own_is_refused_and_kept(tmp_path, kind, make):
    mine, lock = tmp_path / "mine", tmp_path / "w" / ".lock"
    mine.write_text("keep")
    lock.parent.mkdir()
    make(lock, mine)
    with pytest.raises(UserError, match=rf"\.lock there is {kind}, .*delete it"):
        workdirs.create_or_open(tmp_path / "w", CONFIG)
    assert mine.read_text() == "keep"


def leave(folder):
    """Writes files as a user would, and returns their paths."""
    for name in (".notes.tmp", ".config.json.1.tmp", ".cache.tmp/x", "saved_model.tmp/x"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("keep")
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize(
    "name", ["checkpoints", "best", "tensorboard", "evaluation", "nonfinite", "saved_model"]
)
def test_a_folder_that_is_a_link_is_refused_and_its_target_stays(tmp_path, name):
    workdirs.create_or_open(tmp_path / "w", CONFIG).close()
    mine = leave(tmp_path / "mine")
    (tmp_path / "w" / name).symlink_to(tmp_path / "mine")
    for open_again in (
        lambda: workdirs.create_or_open(tmp_path / "w", CONFIG),
        lambda: workdirs.open_existing(tmp_path / "w"),
    ):
        with pytest.raises(UserError, match=f"--workdir=.*: {name} is a link"):
            open_again()
    assert sorted((tmp_path / "mine").rglob("*")) == mine


def test_only_temporary_files_of_this_program_are_removed(tmp_path):
    mine = leave(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "file").write_text("keep")
    for name in ("config.json", "evaluation/test.npz", "checkpoints/ckpt-3"):
        left = files.temporary(tmp_path / name)
        left.mkdir(parents=True)
        (left / "link").symlink_to(tmp_path / "linked")
    files.temporary(tmp_path / "best").symlink_to(tmp_path / "linked")
    (tmp_path / "config.json").write_text(CONFIG.to_json())
    workdirs.create_or_open(tmp_path, CONFIG).close()
    assert not list(tmp_path.rglob(".*.hvi_tf-*.tmp"))
    assert set(mine) < set(tmp_path.rglob("*"))
    assert (tmp_path / "linked" / "file").read_text() == "keep"


@pytest.mark.parametrize("name", ["tensorboard", "saved_model", "metrics.jsonl"])
def test_a_folder_of_another_program_is_refused(tmp_path, name):
    """Protects files of others: a run drops later events and lines, and replaces a SavedModel."""
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"--workdir=.*no run has made {name} there"):
        workdirs.create_or_open(tmp_path, CONFIG)
    assert not (tmp_path / "config.json").exists()


def test_a_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("keep")
    files.temporary(tmp_path / "file").symlink_to(tmp_path / "mine")
    files.write_atomically(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "mine").read_text() == "keep"


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
def test_damaged_provenance_is_refused(tmp_path, provenance):
    stored = json.loads(CONFIG.to_json()) | {"provenance": provenance}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match="cannot read provenance"):
        workdirs.create_or_open(tmp_path, CONFIG)
    with pytest.raises(UserError, match="cannot read provenance"):
        origins.check_same_data(tmp_path, CONFIG)


def test_the_name_of_a_new_workdir_is_readable():
    name = str(workdirs.new_path(config_lib.make(bound="diwhvi", K=7, M=3)))
    assert name.startswith("runs/mnist-diwhvi-K7-M3-seed0-")
    assert "-K" not in str(workdirs.new_path(config_lib.make(bound="vae")))
