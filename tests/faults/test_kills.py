"""SIGKILL at any moment: the run that goes on ends as the one that nobody killed."""

import collections
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from hvi_tf.runtime.interrupts import Interrupted, StopRequest
from tests.faults import count, record, traces
from tests.faults.tiny import Run, in_step
from tests.faults.victims import ROOT, SIZES

# K changes after three epochs, checkpoints are two apart, and training ends early.
RUN = (
    *SIZES,
    *("--bound=iwhvi", "--K=3", "--K_schedule=0:1,3:3", "--gradient=dreg"),
    *("--epochs=30", "--patience=3", "--batch_size=20", "--learning_rate=0.03"),  # 6 steps each
    *("--checkpoint_every=2", "--steps_per_call=4"),
    *("--eval_M=3", "--eval_K=2", "--eval_images=20"),
)


def present(pattern):
    return lambda folder: any((folder / "run").glob(pattern))


def said(text):
    return lambda folder: (folder / "log").exists() and text in (folder / "log").read_text()


# What is waited for, by what tells that it has begun; in the order of a run, more or less. Events
# are gathered when a run goes on, so that comes after a kill within the training.
WATCHED = {
    "metrics": present("metrics.jsonl"),
    "change of K": said("epoch 3/30"),
    "gathering": present("tensorboard/.events*.tmp"),
    "checkpoint": present("checkpoints/.ckpt-*/*"),
    "best": present("best/.ckpt-*/*"),
    "manifest": present("checkpoints/.ckpt-*.json*.tmp"),
    "early stop": said("training ends early"),
    "export": present(".saved_model.*.tmp"),
    "evaluation": present("evaluation/.*.tmp"),
}
MOMENTS = [
    moment for name in WATCHED for moment in ([name] if name == "gathering" else ["any", name])
]


@pytest.fixture(scope="module")
def unbroken(victims, tmp_path_factory):
    """The trace of a run that was left alone, and its seconds."""
    folder = tmp_path_factory.mktemp("unbroken")
    began = time.monotonic()
    status, out = victims.run(*RUN, f"--workdir={folder / 'run'}", log=folder / "log")
    assert status == 0, out
    assert "training ends early" in out
    return traces.of(folder / "run"), time.monotonic() - began


def killed(victims, folder, seconds, kills, where, seed=0):
    """Kills runs so many times, counted in `where`; yields the workdir of each that ended."""
    rng = random.Random(seed)
    workdir, log = folder / "run", folder / "log"
    moment = 0
    while where.total() < kills:
        shutil.rmtree(workdir, ignore_errors=True)
        status = None
        while status != 0:
            log.unlink(missing_ok=True)  # which tells of the run before
            victim = victims.start(*RUN, f"--workdir={workdir}", log=log)
            name = MOMENTS[moment % len(MOMENTS)]
            if where.total() < kills:
                if name == "any":
                    time.sleep(rng.uniform(0.0, 1.0) * seconds)
                elif victim.wait_for(lambda: WATCHED[name](folder)):  # noqa: B023
                    time.sleep(rng.uniform(0.0, 0.03))
                victim.kill()
            status, out = victim.wait()
            assert status in (0, -signal.SIGKILL), out
            if status:
                where[name] += 1
            # What was missed comes again, after what comes before it.
            moment += 1 if status or name == "any" else -1
        yield workdir


@pytest.mark.long
def test_a_run_that_is_killed_anywhere_ends_as_if_it_were_not(victims, unbroken, tmp_path):
    expected, seconds = unbroken
    where = collections.Counter()
    ended = 0  # each from the checkpoint of one that was killed, or from the start
    for workdir in killed(victims, tmp_path, seconds, count(20, 200), where):
        traces.assert_equal(traces.of(workdir), expected)
        ended += 1
    assert len({"any", *WATCHED} - {*where}) <= count(2, 0)  # what takes milliseconds is missed
    record("kills", kills=where.total(), where=dict(where), runs=ended)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_signal_saves_first_and_ends_with_the_usual_status(
    victims, unbroken, tmp_path, number, status
):
    workdir = tmp_path / "run"
    victim = victims.start(*RUN, f"--workdir={workdir}", log=tmp_path / "log")
    assert victim.wait_for((workdir / "metrics.jsonl").exists)
    victim.kill(number)
    found, out = victim.wait()
    assert found == status, out
    assert "nothing is lost" in out
    saved = max(int(p.stem[5:]) for p in (workdir / "checkpoints").glob("ckpt-*.index"))
    status, out = victims.run(*RUN, f"--workdir={workdir}", log=tmp_path / "log")
    assert status == 0, out
    assert f"Resuming from step {saved} of" in out
    traces.assert_equal(traces.of(workdir), unbroken[0])


@pytest.mark.usefixtures("eager")
def test_a_second_signal_does_not_wait(tmp_path, request):
    """Nor does one before the first step, for which nothing has to be saved."""

    # Not ignored, as they are in what a shell has started in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def signals():
        signal.raise_signal(signal.SIGINT)
        time.sleep(StopRequest._TOGETHER)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, in_step(6, signals)).train(steps_per_call=1)
    assert [p.name for p in (tmp_path / "checkpoints").glob("*.index")] == ["ckpt-4.index"]
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "early", lambda model: signal.raise_signal(signal.SIGINT)).train()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_does_not_wait_for_a_call_that_is_not_python(number, status):
    """In the place of TensorFlow: a call that also runs no handler before it returns."""
    code = (
        "import hashlib\n"
        "from hvi_tf.runtime.interrupts import StopRequest\n"
        "with StopRequest():\n"
        "    print('entered', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            assert process.stdout.readline() == b"entered\n"
            time.sleep(0.1)  # within the call
            process.send_signal(number)
            time.sleep(2 * StopRequest._TOGETHER)
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(timeout=10) == status
        finally:
            process.kill()


@pytest.mark.usefixtures("eager")
def test_two_signals_at_once_are_one(tmp_path, request):
    """As `timeout` sends them, to the process and to its group."""

    def end(number, frame):  # as the system would, but not the tests
        raise AssertionError

    before = signal.signal(signal.SIGTERM, end)
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))

    def signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        Run(tmp_path, in_step(6, signals)).train(steps_per_call=1)
    assert (tmp_path / "checkpoints" / "ckpt-6.index").exists()


@pytest.mark.usefixtures("eager")
def test_an_epoch_that_was_interrupted_has_the_means_of_all_its_steps(tmp_path):
    stop = in_step(6, lambda: signal.raise_signal(signal.SIGTERM))
    broken, unbroken = Run(tmp_path / "broken", stop), Run(tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        broken.train(steps_per_call=1)
    assert (broken.folder / "checkpoints" / "ckpt-6.index").exists()  # of four steps an epoch
    broken.train(steps_per_call=1)
    unbroken.train(steps_per_call=1)
    assert traces.metrics(broken.folder) == traces.metrics(unbroken.folder)


@pytest.mark.usefixtures("eager")
def test_what_was_told_since_the_last_checkpoint_is_there_once(tmp_path):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    runs = Run(tmp_path / "broken", in_step(15, kill)), Run(tmp_path / "unbroken")
    settings = dict(epochs=4, checkpoint_every=2, steps_per_call=1)
    with pytest.raises(Killed):
        runs[0].train(**settings)
    steps = [line["step"] for line in traces.metrics(tmp_path / "broken")]
    assert steps == [4, 8, 12]  # and the checkpoint is of step 8
    runs[0]._spoil = runs[1]._spoil
    for run in runs:
        run.train(**settings)
    broken, unbroken = ([traces.metrics(r.folder), traces.events(r.folder)] for r in runs)
    assert broken == unbroken
