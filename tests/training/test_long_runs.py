"""Memory, open files and logs stay bounded, and results do not depend on the clock."""

import json
import os
import pathlib
import re
import sys

import numpy as np
import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.config.schedules import ScheduleValues
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import loop
from hvi_tf.training.summaries import Summaries
from tests.faults import count, record, traces
from tests.faults.tiny import Run
from tests.faults.victims import SIZES

RUN = (*SIZES, "--bound=vae", "--batch_size=20", "--eval_images=20", "--eval_M=3")  # 6 steps each
# With everything that a run repeats: schedules, validation, checkpoints.
LONG_RUN = (
    *(*SIZES, "--bound=iwhvi", "--K=2", "--K_schedule=0:1,50:2", "--batch_size=20"),
    *("--outer_warmup_epochs=1000", "--eval_every=5", "--checkpoint_every=20"),
    *("--eval_images=20", "--eval_M=3", "--eval_K=2", "--steps_per_call=6"),
)


def resident(pid):
    """Returns the MiB of a process without the pages of libraries."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024


def handles(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.long
def test_memory_and_handles_are_flat(victims, tmp_path):
    steps = count(6_000, 100_000)
    workdir = tmp_path / "run"
    victim = victims.start(
        *(*LONG_RUN, f"--workdir={workdir}", f"--epochs={steps // 6 + 1}"),
        f"--max_steps={steps}",
        log=tmp_path / "log",
    )
    assert victim.wait_for((workdir / "checkpoints").exists, seconds=600)
    memory, files, due = [], [], 0

    def newest():
        return max(
            (int(p.stem[5:]) for p in (workdir / "checkpoints").glob("ckpt-*.json")), default=0
        )

    while victim.wait_for(lambda: newest() >= due, seconds=600):  # noqa: B023
        due = newest() + steps // 40
        try:
            memory.append(resident(victim.pid))
            files.append(handles(victim.pid))
        except (OSError, TypeError):  # the process has ended
            break
    status, out = victim.wait()
    assert status == 0, out
    assert len(memory) > 10
    # Buffers and the allocator's arenas grow in the first quarter.
    settled = len(memory) // 4
    growth = np.median(memory[-3:]) - np.median(memory[settled : settled + 3])
    size = sum(p.stat().st_size for p in workdir.rglob("*") if p.is_file())
    record(
        "long run",
        steps=steps,
        growth_mib=round(float(growth), 1),
        memory_mib=round(memory[-1]),
        handles=[min(files[settled:]), max(files[settled:])],
        workdir_mib=round(size / 2**20, 1),
    )
    assert growth < 8
    assert max(files[settled:]) - min(files[settled:]) <= 3
    assert len(list((workdir / "checkpoints").glob("*.index"))) == 3
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_no_python_number_is_passed_to_tensorflow(tmp_path):
    """TensorFlow never frees a Python number that it was given, nor its tensor."""
    config = config_lib.make(K=1, hidden=(8, 8), latent_dim=3, aux_dim=2)
    model = make_vae(config, 16)
    summaries = Summaries(workdirs.Workdir(tmp_path, config, None), config, (4, 4, 1), 0)
    step, number = int("123456"), float("0.123456")  # not interned
    before = sys.getrefcount(step), sys.getrefcount(number)
    schedule = ScheduleValues(1, number, number, number)
    model.set_schedule(*schedule)
    summaries.epoch(step, {"objective": number, "bound": number}, schedule, number, None)
    del schedule
    assert (sys.getrefcount(step), sys.getrefcount(number)) == before


@pytest.mark.long
def test_the_number_of_printed_epochs_is_limited(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "MAX_EPOCHS_PRINTED", 3)
    Run(tmp_path).train(epochs=8)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [12, 24, 32]  # every third epoch, and the last
    assert len(re.findall(r"^epoch ", capsys.readouterr().out, re.M)) == 3


@pytest.mark.long
@pytest.mark.usefixtures("eager")
def test_keep_every_saves_the_checkpoints_that_it_keeps(tmp_path):
    Run(tmp_path).train(epochs=7, checkpoint_every=2, keep_every=3, keep_checkpoints=1)
    found = sorted(int(p.stem[5:]) for p in (tmp_path / "checkpoints").glob("*.index"))
    assert found == [12, 24, 28]  # the third, the sixth and the last epoch, of four steps each


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), [36, 42, 48]),
        (("--keep_checkpoints=1",), [48]),
        (("--keep_checkpoints=1", "--keep_every=3"), [18, 36, 48]),
    ],
)
def test_flags_choose_the_checkpoints_that_are_kept(victims, tmp_path, flags, kept):
    workdir = tmp_path / "run"
    status, out = victims.run(
        *(*RUN, *flags, "--epochs=8", f"--workdir={workdir}"), log=tmp_path / "log"
    )
    assert status == 0, out
    found = sorted(int(p.stem[5:]) for p in (workdir / "checkpoints").glob("*.index"))
    assert found == kept
    assert len(list((workdir / "checkpoints").iterdir())) == 3 * len(kept) + 1


@pytest.mark.long
def test_a_clock_that_is_set_back_does_no_harm(victims, tmp_path):
    """A run with files from the future resumes, and its events are in order."""
    command = (*RUN, "--epochs=30")
    unbroken, workdir = tmp_path / "unbroken", tmp_path / "run"
    assert victims.run(*command, f"--workdir={unbroken}", log=tmp_path / "log")[0] == 0
    victim = victims.start(*command, f"--workdir={workdir}", log=tmp_path / "log")
    assert victim.wait_for((workdir / "checkpoints" / "ckpt-12.json").exists)
    victim.kill()
    victim.wait()
    (events,) = (workdir / "tensorboard").iterdir()
    events.rename(events.with_name("events.out.tfevents.9999999999.vm.1.0.v2"))
    for path in workdir.rglob("*"):
        os.utime(path, (2**33, 2**33))
    status, out = victims.run(
        *(*command, f"--workdir={workdir}"),
        log=tmp_path / "log",
        under="a clock that goes backwards",
    )
    assert status == 0, out
    traces.assert_equal(traces.of(workdir), traces.of(unbroken))


def test_a_new_workdir_never_has_the_name_of_another(tmp_path, monkeypatch):
    """The name is new even if the clock is set back or two runs begin in one second."""
    monkeypatch.setattr(workdirs.time, "strftime", lambda form: "20261122-091500")
    config = config_lib.make(K=1)
    first = workdirs.new_path(config, tmp_path)
    first.mkdir()
    second = workdirs.new_path(config, tmp_path)
    assert second.name == f"{first.name}-2"
