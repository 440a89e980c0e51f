"""A FIFO, a device or a file of terabytes in place of a regular file is refused at once."""

import os
import pathlib
import signal

import pytest

from hvi_tf.cli import report
from hvi_tf.config.settings import DataConfig
from hvi_tf.data import datasets
from hvi_tf.data.omniglot import chardata
from hvi_tf.errors import UserError
from hvi_tf.evaluation import jobs
from hvi_tf.experiments.harness import measuring
from hvi_tf.experiments.harness.experiment import Cell
from hvi_tf.storage import files, npz
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import event_files, summaries
from tests.faults.cases import scoring_job
from tests.faults.tiny import Run

TERABYTES = 2**43


@pytest.fixture(autouse=True)
def _no_hang():
    """Ends a test that waits or reads forever."""

    def end(number, frame):
        raise AssertionError("waits or reads forever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(120)  # seconds; more than the slowest machine needs
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path):
    os.mkfifo(path)


def device(path):
    path.symlink_to("/dev/zero")


def folder(path):
    path.mkdir()


def endless(path):
    path.touch()
    os.truncate(path, TERABYTES)  # a sparse file


KINDS = [fifo, device, folder, endless]


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize(
    "read",
    [
        files.read_bytes,
        files.read_text,
        files.read_json,
        npz.read_arrays,
        lambda path: files.digest(path, most=2**20),
        lambda path: files.check_regular([path], most=2**20),
        report.data_uri,
    ],
)
def test_every_reader_refuses_it(put, read, tmp_path):
    put(tmp_path / "file.png")
    with pytest.raises((OSError, ValueError), match=rf"no regular file|{TERABYTES} bytes"):
        read(tmp_path / "file.png")


def test_a_file_in_place_of_the_temporary_file_is_replaced(tmp_path):
    """A stranger can predict that name. No link is followed, and no FIFO is waited for."""
    for put in (fifo, lambda path: path.symlink_to(tmp_path / "another")):
        put(files.temporary(tmp_path / "file"))
        files.write_atomically(tmp_path / "file", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("put", [fifo, device, folder])
def test_nothing_is_appended_to_it(put, tmp_path):
    put(tmp_path / "log")
    with pytest.raises(OSError, match="log"):
        files.open_to_append(tmp_path / "log")


@pytest.mark.parametrize("put", KINDS)
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.json", lambda path: workdirs.open_existing(path.parent, writes=False)),
        ("rows.json", lambda path: measuring._finished(path.parent, Cell("cell", {}))),
        ("chardata.mat", chardata.read),
        ("chardata.mat", chardata.md5),
    ],
)
def test_a_command_ends_with_one_line(put, name, read, tmp_path):
    put(tmp_path / name)
    with pytest.raises(UserError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("put", KINDS)
def test_earlier_scores_are_dropped(put, tmp_path, capsys):
    put(tmp_path / "scores.npz")
    scores, seconds = jobs._load(scoring_job(tmp_path / "scores.npz"))
    assert all(len(values) == 0 for values in scores.values())
    assert seconds == 0.0
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize("put", [fifo, device, folder])
def test_a_run_that_resumes_names_it(put, tmp_path):
    put(tmp_path / "metrics.jsonl")
    put(tmp_path / "events.out.tfevents.1")
    with pytest.raises(UserError, match="metrics"):
        summaries._rewind_lines(tmp_path / "metrics.jsonl", 1)
    with pytest.raises(UserError, match=r"events\.out"):
        event_files.rewind(tmp_path, 1)


@pytest.mark.usefixtures("eager")
def test_training_resumes_from_the_previous_checkpoint(tmp_path, capsys):
    run = Run(tmp_path)
    for max_steps in (1, 2):
        run.train(max_steps=max_steps)
    for put, suffix in ((fifo, "index"), (endless, "data-00000-of-00001")):
        path = tmp_path / "checkpoints" / f"ckpt-2.{suffix}"
        path.unlink()
        put(path)
        run.train(max_steps=2)
        assert "ckpt-2 is damaged" in capsys.readouterr().out
        assert 0 < path.stat().st_size < TERABYTES


def test_prepared_and_original_files_of_a_data_set_are_named(tmp_path):
    place = tmp_path / "tfds" / "mnist" / "3.0.1"
    place.mkdir(parents=True)
    for put in (fifo, endless):
        put(place / "dataset_info.json")
        with pytest.raises(UserError, match=r"dataset_info\.json|bytes"):
            datasets.load(DataConfig(data_dir=str(tmp_path / "tfds")))
        (place / "dataset_info.json").unlink()
    place.rmdir()
    for put in (fifo, endless):
        folder = tmp_path / put.__name__
        folder.mkdir()
        for file in pathlib.Path(datasets._PACKAGED_FILES / "mnist").glob("*.gz"):
            put(folder / file.name)
        with pytest.raises(UserError, match=r"not a regular file|damaged or another"):
            datasets.load(DataConfig(data_dir=str(tmp_path / "tfds"), manual_dir=str(folder)))
