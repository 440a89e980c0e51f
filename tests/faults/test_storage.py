"""Full disks, folders that vanish, damaged checkpoints, and two runs in one folder.

Tests that run the command are long; test_checkpoints has shorter tests of damaged checkpoints.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.errors import UserError
from hvi_tf.models.export import export
from hvi_tf.storage import files, locks, npz
from hvi_tf.storage import workdir as workdirs
from hvi_tf.storage.locks import Lock
from hvi_tf.training import event_files, summaries
from hvi_tf.training.summaries import Summaries
from tests.faults import traces
from tests.faults.tiny import Run
from tests.faults.victims import SIZES

RUN = (
    *SIZES,
    *("--bound=iwhvi", "--K=2", "--epochs=30", "--batch_size=20", "--steps_per_call=3"),
    *("--eval_M=3", "--eval_K=2", "--eval_images=20"),
)


@pytest.fixture(scope="module")
def unbroken(victims, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    status, out = victims.run(*RUN, f"--workdir={folder / 'run'}", log=folder / "log")
    assert status == 0, out
    return folder / "run"


def begun(victims, workdir, log):
    """Returns a run that is training."""
    victim = victims.start(*RUN, f"--workdir={workdir}", log=log)
    assert victim.wait_for((workdir / "checkpoints" / "ckpt-12.json").exists)
    return victim


def assert_one_line(victim, *parts):
    status, out = victim.wait()
    assert status == 2, out
    assert "Traceback" not in out
    (line,) = (line for line in out.splitlines() if line.startswith("error: "))
    for part in parts:
        assert part in line


def assert_goes_on(victims, workdir, unbroken, log):
    status, out = victims.run(*RUN, f"--workdir={workdir}", log=log)
    assert status == 0, out
    assert "Resuming from step" in out
    traces.assert_equal(traces.of(workdir), traces.of(unbroken))


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path):
    mount("-t", "tmpfs", "-o", "size=320m", "tmpfs", tmp_path)
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def fill(path):
    with contextlib.suppress(OSError), path.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


@pytest.mark.long
def test_a_run_resumes_after_a_full_disk(victims, unbroken, small_disk, tmp_path):
    log = tmp_path.parent / "log"
    victim = begun(victims, small_disk / "run", log)
    victim.kill(signal.SIGSTOP)
    fill(small_disk / "ballast")
    victim.kill(signal.SIGCONT)
    assert_one_line(victim, "cannot write", "free some space")
    (small_disk / "ballast").unlink()
    assert_goes_on(victims, small_disk / "run", unbroken, log)


@pytest.mark.usefixtures("eager")
def test_files_and_folders_are_synced_around_each_renaming(tmp_path, monkeypatch):
    """A power failure leaves no empty file under the name of a complete one."""
    on_disk, renamed, unnamed = set(), [], set()  # inodes; targets; folders with new names
    fsync = os.fsync

    def synced(descriptor):
        fsync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)
        unnamed.discard(os.readlink(f"/proc/self/fd/{descriptor}"))

    def recorded(rename):
        def moved(source, target):
            parts = [pathlib.Path(source), *pathlib.Path(source).rglob("*")]
            assert {part.stat().st_ino for part in parts} <= on_disk, source
            rename(source, target)
            renamed.append(pathlib.Path(target).name)
            unnamed.add(str(pathlib.Path(target).parent.resolve()))

        return moved

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, recorded(getattr(os, name)))
    run = Run(tmp_path)
    run.train(max_steps=4)
    run.train(max_steps=8)  # gathers the events
    export(run.model, tmp_path / "saved_model")
    assert not unnamed
    export(run.model, tmp_path / "saved_model")
    assert not unnamed
    npz.write_arrays(tmp_path / "scores.npz", {"score": np.zeros(3)})
    assert {"config.json", "ckpt-8.index", "ckpt-8.json", "saved_model", "scores.npz"} <= {*renamed}
    assert any("tfevents" in name for name in renamed)
    assert not unnamed
    appended = [tmp_path / "metrics.jsonl", *(tmp_path / "tensorboard").iterdir()]
    assert {path.stat().st_ino for path in appended} <= on_disk


@pytest.mark.long
def test_a_file_that_is_cut_off_is_never_used(victims, unbroken, tmp_path):
    """A limit of 4 KiB per file replaces a full disk where no disk can be mounted."""
    victim = begun(victims, tmp_path / "run", tmp_path / "log")
    victim.kill(signal.SIGTERM)
    victim.wait()
    command = (*RUN, f"--workdir={tmp_path / 'run'}")
    status, _ = victims.run(*command, log=tmp_path / "limited.log", under="small files")
    assert status  # its value depends on the log of 4 KiB
    assert_goes_on(victims, tmp_path / "run", unbroken, tmp_path / "log")


@pytest.mark.long
def test_a_run_resumes_after_a_read_only_disk(victims, unbroken, tmp_path):
    workdir = tmp_path / "run"
    victim = begun(victims, workdir, tmp_path / "log")
    victim.kill(signal.SIGSTOP)
    mount("--bind", workdir, workdir)
    try:
        mount("-o", "remount,bind,ro", workdir)
        victim.kill(signal.SIGCONT)
        assert_one_line(victim, "cannot write")
    finally:
        subprocess.run(["umount", "--lazy", workdir], check=True)
    assert_goes_on(victims, workdir, unbroken, tmp_path / "log")


@pytest.mark.long
@pytest.mark.parametrize("replaced", [False, True])
def test_a_workdir_that_vanishes_ends_the_run(victims, unbroken, tmp_path, replaced):
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    victim = begun(victims, workdir, tmp_path / "log")
    victim.kill(signal.SIGSTOP)
    workdir.rename(elsewhere)
    if replaced:
        workdir.mkdir()
        (workdir / ".lock").touch()
    victim.kill(signal.SIGCONT)
    assert_one_line(victim, str(workdir), "was replaced" if replaced else "was removed")
    # Files written in place of the folder are not part of the run.
    shutil.rmtree(workdir, ignore_errors=True)
    elsewhere.rename(workdir)
    assert_goes_on(victims, workdir, unbroken, tmp_path / "log")


@pytest.mark.long
def test_a_run_resumes_in_a_moved_or_copied_folder(victims, unbroken, tmp_path):
    victim = begun(victims, tmp_path / "first", tmp_path / "log")
    victim.kill(signal.SIGTERM)
    victim.wait()
    copied = shutil.copytree(tmp_path / "first", tmp_path / "copy of it")
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    for workdir in (copied, moved):
        assert_goes_on(victims, workdir, unbroken, tmp_path / "log")


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.fixture
def stopped(unbroken, tmp_path):
    """Returns a copy of the finished run; its newest checkpoints have steps 168, 174 and 180."""
    return shutil.copytree(unbroken, tmp_path / "run")


SUFFIXES = ("data-00000-of-00001", "index", "json")


@pytest.mark.long
@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_resumes(
    victims, unbroken, stopped, tmp_path, damage, suffix
):
    damage(stopped / "checkpoints" / f"ckpt-180.{suffix}")
    status, out = victims.run(*RUN, f"--workdir={stopped}", log=tmp_path / "log")
    assert status == 0, out
    assert "ckpt-180 is damaged (" in out
    assert "Resuming from step 174 of 180." in out
    traces.assert_equal(traces.of(stopped), traces.of(unbroken))


@pytest.mark.long
def test_a_checkpoint_with_the_name_of_another_is_rejected(victims, unbroken, stopped, tmp_path):
    folder = stopped / "checkpoints"
    for suffix in SUFFIXES:
        shutil.copy(folder / f"ckpt-174.{suffix}", folder / f"ckpt-180.{suffix}")
    status, out = victims.run(*RUN, f"--workdir={stopped}", log=tmp_path / "log")
    assert status == 0, out
    assert "ckpt-180 is damaged (its ckpt-180.json is that of step 174)" in out
    traces.assert_equal(traces.of(stopped), traces.of(unbroken))


@pytest.mark.long
@pytest.mark.parametrize(
    ("suffixes", "reason"),
    [(SUFFIXES, "it belongs to another run"), (SUFFIXES[:2], r"ckpt-180\.data-\S+ has SHA-256")],
    ids=["all", "tensors"],
)
def test_a_checkpoint_of_another_run_is_rejected(
    victims, unbroken, stopped, tmp_path, suffixes, reason
):
    """TensorFlow would accept it: it has the same networks and step, but another seed."""
    other = tmp_path / "other"
    command = (*RUN, "--seed=1", f"--workdir={other}")
    assert victims.run(*command, log=tmp_path / "log")[0] == 0
    for suffix in suffixes:
        name = f"checkpoints/ckpt-180.{suffix}"
        shutil.copy(other / name, stopped / name)
    status, out = victims.run(*RUN, f"--workdir={stopped}", log=tmp_path / "log")
    assert status == 0, out
    assert re.search(rf"ckpt-180 is damaged \({reason}", out)
    traces.assert_equal(traces.of(stopped), traces.of(unbroken))


@pytest.mark.long
def test_other_images_under_the_same_name_are_refused(victims, stopped, tmp_path):
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    (digests,) = config["provenance"][0]["data"].values()
    digests["train"] = "0" * 64
    path.write_text(json.dumps(config))
    for mode in ("train", "evaluate"):
        victim = victims.start(
            *(RUN if mode == "train" else ()),
            *(f"--mode={mode}", f"--workdir={stopped}"),
            log=tmp_path / "log",
        )
        assert_one_line(victim, "this run began with other images", "train: SHA-256 00000000")


def test_a_full_disk_of_event_files_is_reported(tmp_path, monkeypatch):
    """TensorFlow raises the same error when memory is exhausted."""
    config = config_lib.make(jit_compile="off")
    workdir = workdirs.create_or_open(tmp_path, config)
    summaries = Summaries(workdir, config, (4, 4, 1), 0)

    def full():
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(summaries._writer, "flush", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left"):
        summaries.epoch(1, {"bound": 1.0, "objective": 1.0}, config.schedule(0), 1.0, None)
    workdir.close()


@pytest.mark.parametrize(("damage", "warns"), [("truncated", False), ("flipped", True)])
def test_damaged_events_are_reported(tmp_path, capsys, damage, warns):
    """Events before the damage stay. A truncated end is normal after a kill, without a warning."""
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for step in range(1, 101):
            tf.summary.scalar("bound", -step, step=step)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 255
    path.write_bytes(content if damage == "flipped" else content[:middle])
    event_files.rewind(tmp_path, 100)
    assert ("is damaged; its later events are lost" in capsys.readouterr().out) == warns
    (gathered,) = tmp_path.iterdir()
    found = len(list(tf.data.TFRecordDataset(str(gathered)).as_numpy_iterator()))
    assert 45 < found < 55


def test_records_that_are_not_events_are_reported(tmp_path, capsys):
    path = tmp_path / "events.out.tfevents.1.vm"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xff" * 20)
    event_files.rewind(tmp_path, 100)
    assert "is damaged; its later events are lost" in capsys.readouterr().out


def test_damaged_lines_of_metrics_are_reported(tmp_path, capsys):
    """An unfinished last line is normal after a kill and not reported; later steps are dropped."""
    config = config_lib.make(jit_compile="off")
    lines = [json.dumps({"step": step, "bound": -1.5}).encode() for step in range(1, 10)]
    damaged = [b"", b'{"st', b'{"bound": 1}', b'{"step": NaN}', b'{"step": 3, "\xff": 1}', b"[3]"]
    with contextlib.closing(workdirs.create_or_open(tmp_path, config)) as workdir:
        workdir.metrics.write_bytes(b"\n".join([*lines, b'{"step": 3']))
        Summaries(workdir, config, (4, 4, 1), 8)
        assert "warning" not in capsys.readouterr().out
        assert workdir.metrics.read_bytes() == b"\n".join([*lines[:8], b""])
        for line in damaged:
            workdir.metrics.write_bytes(b"\n".join([*lines[:2], line, *lines[3:], b""]))
            Summaries(workdir, config, (4, 4, 1), 8)
            assert re.search(r"metrics\.jsonl is damaged; .* line 3$", capsys.readouterr().out), (
                line
            )
            assert workdir.metrics.read_bytes().splitlines() == [*lines[:2], *lines[3:8]]


def test_metrics_of_many_epochs_are_read(tmp_path):
    """The file may be larger than the limit of other text files."""
    path, wide = tmp_path / "metrics.jsonl", "x" * 2**19
    lines = [json.dumps({"step": step, "wide": wide}).encode() for step in range(140)]
    path.write_bytes(b"\n".join([*lines, b""]))
    assert path.stat().st_size > files.MAX_TEXT
    summaries._rewind_lines(path, 138)
    assert path.read_bytes().splitlines() == lines[:139]


def test_a_line_of_metrics_that_is_too_long_is_reported(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(summaries, "MAX_LINE", 20)
    path = tmp_path / "metrics.jsonl"
    for too_long in (b"x" * 20, b"x" * 39, b"x" * 40, b"x" * 1000):
        path.write_bytes(b'{"step": 1}\n' + too_long + b'\n{"step": 2}\n' + too_long)
        summaries._rewind_lines(path, 5)
        assert "damaged; removing line 2" in capsys.readouterr().out
        assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


GONE = "error: output pipe closed; to resume: the same\n"


@pytest.mark.parametrize(
    ("command", "status", "printed"),
    [
        ("print('x')", 2, GONE),  # as of `... | head -1`
        ("stop(15)", 143, ""),  # as after Ctrl-C, which also ends the `tee` of the output
        ("stop(2)", 130, ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stderr, too"])
def test_a_closed_pipe_changes_no_status(command, status, printed, unbuffered, both):
    script = (
        "import sys\n"
        "from hvi_tf.cli import exits as command_line; from hvi_tf.runtime import interrupts\n"
        "def stop(number):\n"
        "    raise interrupts.Interrupted(number)\n"
        "command_line.FLAGS(['hvi_tf.main'])\n"
        "sys.stdin.read()\n"
        f"command_line.run(lambda: {command}, lambda: 'the same')\n"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **pipes)
    process.stdout.close()
    if both:
        process.stderr.close()
    process.stdin.close()
    assert both or process.stderr.read() == printed
    assert process.wait(timeout=60) == status


def holder(folder):
    """Starts a process that holds the lock of a folder."""
    script = (
        "import pathlib, sys, time\n"
        "from hvi_tf.storage.locks import Lock\n"
        "lock = Lock(pathlib.Path(sys.argv[1]))\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def no_locks(*arguments):
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("has_locks", [True, False])
def test_a_lock_refuses_a_second_process_until_the_first_ends(tmp_path, monkeypatch, has_locks):
    """This also holds on a file system without locks."""
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    process = holder(tmp_path)
    try:
        with pytest.raises(locks.InUseError, match=f"process {process.pid} on .* is running there"):
            Lock(tmp_path)
    finally:
        process.kill()
        process.wait()
    assert str(process.pid) in (tmp_path / ".lock").read_text()  # it had no time to clean up
    Lock(tmp_path).close()


def test_a_lock_of_another_machine_or_of_a_reused_pid(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    owner = {"host": "another", "pid": 1, "began": "1"}
    (tmp_path / ".lock").write_text(json.dumps(owner))
    with pytest.raises(UserError, match="process 1 on another is running there"):
        Lock(tmp_path)
    ours = {
        **locks._identity(),
        "pid": os.getppid(),
        "began": "1",
    }  # alive, but another process
    (tmp_path / ".lock").write_text(json.dumps(ours))
    Lock(tmp_path).close()
    for garbage in (b"", b"{", b"[]", b'{"host": 1}', b"\xff\xfe", b"[" * 100_000):
        (tmp_path / ".lock").write_bytes(garbage)
        Lock(tmp_path).close()


def test_a_lock_replaced_by_a_link_is_refused(tmp_path, monkeypatch):
    (tmp_path / "mine").write_text("text")
    opens = os.open

    def swapped(path, *arguments):
        if os.path.basename(path) == ".lock":
            os.link(tmp_path / "mine", path)
        return opens(path, *arguments)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(UserError, match=r"\.lock there is a hard link"):
        Lock(tmp_path)
    assert (tmp_path / "mine").read_text() == "text"


def test_a_lock_can_be_closed_on_a_read_only_disk(tmp_path, monkeypatch):
    lock = Lock(tmp_path)

    def fails(owner):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(lock, "_write", fails)
    lock.close()
    Lock(tmp_path).close()


@pytest.mark.long
def test_unfinished_files_of_a_killed_process_are_removed(stopped):
    left = [
        files.temporary(stopped / "config.json"),
        files.temporary(stopped / "evaluation" / "test.npz"),
        files.temporary(stopped / "checkpoints" / "ckpt-186") / "ckpt-186.index",
        files.temporary(stopped / "saved_model") / "saved_model.pb",
    ]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    config = workdirs.open_existing(stopped, writes=False).config
    workdirs.create_or_open(stopped, config).close()
    assert not [path for path in left if path.exists()]
    assert (stopped / "saved_model").exists()
    # A kill between the two renamings of an export leaves this.
    for open_again in (
        lambda: workdirs.create_or_open(stopped, config),
        lambda: workdirs.open_existing(stopped),
    ):
        (stopped / "saved_model").rename(stopped / ".saved_model.hvi_tf-old")
        open_again().close()
        assert (stopped / "saved_model" / "saved_model.pb").exists()
