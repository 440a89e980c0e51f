"""A run that is killed at any moment and resumed has the results of an unbroken run."""

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

# K changes after three epochs, checkpoints are two epochs apart, and training ends early.
RUN = (
    *SIZES,
    *("--bound=iwhvi", "--K=3", "--K_schedule=0:1,3:3", "--gradient=dreg"),
    *("--epochs=30", "--patience=3", "--batch_size=20", "--learning_rate=0.03"),  # 6 steps each
    *("--checkpoint_every=2", "--steps_per_call=4"),
    *("--eval_M=3", "--eval_K=2", "--eval_images=20"),
)


def present(pattern):
    return lambda folder: any((folder / "run").glob(pattern))


def printed(text):
    return lambda folder: (folder / "log").exists() and text in (folder / "log").read_text()


# Conditions that show that a moment has come, roughly in the order of a run. Events are gathered
# when a run resumes, so that moment needs an earlier kill during training.
WATCHED = {
    "metrics": present("metrics.jsonl"),
    "change of K": printed("epoch 3/30"),
    "gathering": present("tensorboard/.events*.tmp"),
    "checkpoint": present("checkpoints/.ckpt-*/*"),
    "best": present("best/.ckpt-*/*"),
    "manifest": present("checkpoints/.ckpt-*.json*.tmp"),
    "early stop": printed("training ends early"),
    "export": present(".saved_model.*.tmp"),
    "evaluation": present("evaluation/.*.tmp"),
}
MOMENTS = [
    moment for name in WATCHED for moment in ([name] if name == "gathering" else ["any", name])
]


@pytest.fixture(scope="module")
def unbroken(victims, tmp_path_factory):
    """Returns the trace of a run that is not killed, and its duration in seconds."""
    folder = tmp_path_factory.mktemp("unbroken")
    began = time.monotonic()
    status, out = victims.run(*RUN, f"--workdir={folder / 'run'}", log=folder / "log")
    assert status == 0, out
    assert "training ends early" in out
    return traces.of(folder / "run"), time.monotonic() - began


def killed(victims, folder, seconds, kills, where, seed=0):
    """Kills runs `kills` times, counted in `where`; yields the workdir of each run that ended."""
    rng = random.Random(seed)
    workdir, log = folder / "run", folder / "log"
    moment = 0
    while where.total() < kills:
        shutil.rmtree(workdir, ignore_errors=True)
        status = None
        while status != 0:
            log.unlink(missing_ok=True)  # of the previous process
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
            # A missed moment is tried again, after the moment before it.
            moment += 1 if status or name == "any" else -1
        yield workdir


@pytest.mark.long
def test_a_run_that_is_killed_anywhere_has_the_results_of_an_unbroken_run(
    victims, unbroken, tmp_path
):
    expected, seconds = unbroken
    where = collections.Counter()
    ended = 0
    for workdir in killed(victims, tmp_path, seconds, count(20, 200), where):
        traces.assert_equal(traces.of(workdir), expected)
        ended += 1
    assert len({"any", *WATCHED} - {*where}) <= count(2, 0)  # moments of milliseconds may be missed
    record("kills", kills=where.total(), where=dict(where), runs=ended)


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_signal_saves_a_checkpoint_and_ends_with_the_usual_status(
    victims, unbroken, tmp_path, number, status
):
    workdir = tmp_path / "run"
    victim = victims.start(*RUN, f"--workdir={workdir}", log=tmp_path / "log")
    assert victim.wait_for((workdir / "metrics.jsonl").exists)
    victim.kill(number)
    actual, out = victim.wait()
    assert actual == status, out
    assert "nothing is lost" in out
    saved = max(int(p.stem[5:]) for p in (workdir / "checkpoints").glob("ckpt-*.index"))
    status, out = victims.run(*RUN, f"--workdir={workdir}", log=tmp_path / "log")
    assert status == 0, out
    assert f"Resuming from step {saved} of" in out
    traces.assert_equal(traces.of(workdir), unbroken[0])


@pytest.mark.usefixtures("eager")
def test_a_second_signal_ends_the_run_at_once(tmp_path, request):
    """So does a first signal before the first step, because there is nothing to save."""

    # A shell makes its background jobs ignore SIGINT.
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
def test_a_second_signal_ends_a_call_outside_python(number, status):
    """As in TensorFlow, no signal handler of Python runs before this call returns."""
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
def test_two_signals_at_once_count_as_one(tmp_path, request):
    """`timeout` sends two: to the process and to its group."""

    def end(number, frame):  # the default action would end the tests
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
def test_an_interrupted_epoch_has_the_means_of_all_its_steps(tmp_path):
    stop = in_step(6, lambda: signal.raise_signal(signal.SIGTERM))
    broken, unbroken = Run(tmp_path / "broken", stop), Run(tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        broken.train(steps_per_call=1)
    assert (broken.folder / "checkpoints" / "ckpt-6.index").exists()  # an epoch has four steps
    broken.train(steps_per_call=1)
    unbroken.train(steps_per_call=1)
    assert traces.metrics(broken.folder) == traces.metrics(unbroken.folder)


@pytest.mark.long
@pytest.mark.usefixtures("eager")
def test_metrics_since_the_last_checkpoint_are_stored_once(tmp_path):
    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    runs = Run(tmp_path / "broken", in_step(15, kill)), Run(tmp_path / "unbroken")
    settings = dict(epochs=4, checkpoint_every=2, steps_per_call=1)
    with pytest.raises(Killed):
        runs[0].train(**settings)
    steps = [line["step"] for line in traces.metrics(tmp_path / "broken")]
    assert steps == [4, 8, 12]  # the last checkpoint is that of step 8
    runs[0]._spoil = runs[1]._spoil
    for run in runs:
        run.train(**settings)
    broken, unbroken = ([traces.metrics(r.folder), traces.events(r.folder)] for r in runs)
    assert broken == unbroken
