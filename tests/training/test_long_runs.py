"""Memory, open files and what is written stay bounded, and the clock decides nothing."""

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
# With all that a run does again and again: schedules, validation, checkpoints.
LONG_RUN = (
    *(*SIZES, "--bound=iwhvi", "--K=2", "--K_schedule=0:1,50:2", "--batch_size=20"),
    *("--outer_warmup_epochs=1000", "--eval_every=5", "--checkpoint_every=20"),
    *("--eval_images=20", "--eval_M=3", "--eval_K=2", "--steps_per_call=6"),
)


def resident(pid):
    """MiB of its own, without the pages of libraries, of which a process has what it has used."""
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
        except (OSError, TypeError):  # it ends
            break
    status, out = victim.wait()
    assert status == 0, out
    assert len(memory) > 10
    # The first quarter: buffers and the allocator's arenas come to their size.
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


def test_tensorflow_is_given_no_numbers_to_keep(tmp_path):
    """It would keep every Python number, with a tensor of it, for ever."""
    config = config_lib.make(K=1, hidden=(8, 8), latent_dim=3, aux_dim=2)
    model = make_vae(config, 16)
    summaries = Summaries(workdirs.Workdir(tmp_path, config, None), config, (4, 4, 1), 0)
    step, number = int("123456"), float("0.123456")  # objects of their own
    before = sys.getrefcount(step), sys.getrefcount(number)
    schedule = ScheduleValues(1, number, number, number)
    model.set_schedule(*schedule)
    summaries.epoch(step, {"objective": number, "bound": number}, schedule, number, None)
    del schedule
    assert (sys.getrefcount(step), sys.getrefcount(number)) == before


def test_no_more_than_so_many_epochs_are_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "MAX_EPOCHS_PRINTED", 3)
    Run(tmp_path).train(epochs=8)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [12, 24, 32]  # every third epoch, and the last
    assert len(re.findall(r"^epoch ", capsys.readouterr().out, re.M)) == 3


@pytest.mark.usefixtures("eager")
def test_a_checkpoint_that_is_to_be_kept_is_also_made(tmp_path):
    Run(tmp_path).train(epochs=7, checkpoint_every=2, keep_every=3, keep_checkpoints=1)
    found = sorted(int(p.stem[5:]) for p in (tmp_path / "checkpoints").glob("*.index"))
    assert found == [12, 24, 28]  # of four steps an epoch: of the third, the sixth and the last


@pytest.mark.long
@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ((), [36, 42, 48]),
        (("--keep_checkpoints=1",), [48]),
        (("--keep_checkpoints=1", "--keep_every=3"), [18, 36, 48]),
    ],
)
def test_checkpoints_are_kept_as_asked(victims, tmp_path, flags, kept):
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
    """Files of the future: the run goes on, and its events are in order."""
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


def test_a_name_that_is_taken_is_not_taken_again(tmp_path, monkeypatch):
    """As when the clock is set back, or two runs begin in one second."""
    monkeypatch.setattr(workdirs.time, "strftime", lambda form: "20261122-091500")
    config = config_lib.make(K=1)
    first = workdirs.new_path(config, tmp_path)
    first.mkdir()
    second = workdirs.new_path(config, tmp_path)
    assert second.name == f"{first.name}-2"
