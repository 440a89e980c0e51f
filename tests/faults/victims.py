"""Runs of the command on random images, each in a process that can be killed.

They are forked from one process that has imported TensorFlow but not used it. So a run of seconds
does not begin with seconds of imports.
"""

import contextlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import traceback

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIZES = (
    *("--hidden=8,8", "--latent_dim=3", "--jit_compile=off", "--devices=cpu"),
    *("--lr_schedule=exponential", "--lr_warmup_steps=0"),  # allow a later run of more epochs
)


class Victims:
    """A context manager whose `start` runs `python -m hvi_tf.main` with the given flags."""

    def __enter__(self):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.victims"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error):
        self._parent.stdin.close()
        self._parent.wait(timeout=60)

    def start(self, *flags, log, under="nothing"):
        """Starts a run, one at a time, under one of CONDITIONS."""
        self._send(flags=list(map(str, flags)), log=str(log), under=under)
        return Victim(self._receive(), self._receive, log)

    def run(self, *flags, log, under="nothing"):
        """Runs the command to its end; returns its exit status and its output."""
        return self.start(*flags, log=log, under=under).wait()

    def _send(self, **request):
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()

    def _receive(self):
        return int(self._parent.stdout.readline())


class Victim:
    """A process of a run."""

    def __init__(self, pid, receive, log):
        self.pid, self._receive, self._log = pid, receive, log
        self._status = None

    def wait(self):
        """Returns the exit status, negative for a signal, and the output."""
        if self._status is None:
            self._status = self._receive()
        return self._status, self._log.read_text()

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def is_over(self):
        """Whether the process has ended; it is a zombie until `wait`."""
        try:
            state = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        return state in "ZX"

    def wait_for(self, condition, seconds=120):
        """Waits for `condition()` or the end of the run; returns whether it was the condition."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.is_over:
                return False
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.001)
        return True


def images():
    """Returns a data set of random images of 16 pixels."""
    from hvi_tf.data.datasets import Dataset

    drawn = np.random.default_rng(0).integers(0, 256, (190, 16)).astype(np.uint8)
    return Dataset(drawn[:120].copy(), drawn[120:150], drawn[150:], (4, 4, 1))


def _limit_file_size():
    """Limits the size of every file to 4 KiB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def _turn_the_clock_back():
    """Makes Python's clock run backwards, from three years ago."""
    real, began = time.time, time.time()
    time.time = lambda: 2 * began - real() - 1e8


CONDITIONS = {
    "nothing": lambda: None,
    "small files": _limit_file_size,
    "a clock that goes backwards": _turn_the_clock_back,
}


def _serve():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Imports what the command needs. No operation may run here: a fork after it would not work.
    from hvi_tf.cli import main
    from hvi_tf.data import datasets
    from hvi_tf.evaluation import table  # noqa: F401
    from hvi_tf.models.export import export  # noqa: F401
    from hvi_tf.training import fit_tau, runs  # noqa: F401

    datasets.load = lambda config: images()
    sys.argv[0] = "hvi_tf.main"
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run_child(main, request)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_child(main, request):
    """Runs the command in the child process, and exits."""
    import tensorflow as tf

    log = os.open(request["log"], os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    status = 0
    try:
        CONDITIONS[request["under"]]()
        sys.argv[1:] = request["flags"]
        # Fixes the order in which AddN adds, which otherwise depends on the threads.
        with tf.experimental.function_executor_type("SINGLE_THREADED_EXECUTOR"):
            main.main(main._parse_flags(["hvi_tf.main", *request["flags"]]))
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve()
