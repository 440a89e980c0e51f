"""The Slurm job and the Slurm array, on a cluster of this machine alone."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = [
    *("--hidden=16,16", "--latent_dim=4", "--aux_dim=3", "--K=2", "--batch_size=1024"),
    *("--epochs=1", "--max_steps=6", "--eval_M=2", "--eval_K=2", "--eval_images=20"),
]


@pytest.fixture
def slurm(tmp_path):
    """Returns a function that runs a command in a Slurm cluster; skips if none can start."""

    def run(*command):
        folder = tmp_path / "slurm"
        folder.mkdir()
        variables = {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(
            [ROOT / "tests" / "runtime" / "slurm" / "one_machine.sh", folder, *map(str, command)],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        if result.returncode == 77:
            pytest.skip(result.stdout.splitlines()[-1])
        return result

    return run


@pytest.mark.long
def test_two_tasks_train_one_model_stop_in_time_and_resume(slurm, tmp_path, mnist_dir):
    workdir, log = tmp_path / "run", tmp_path / "job.log"
    result = slurm(
        *("tests/runtime/slurm/signalled_job.sh", log, workdir, *TINY),
        *("--batch_size=11000", "--epochs=4", "--max_steps=0", "--steps_per_call=1"),
        f"--data_dir={mnist_dir}",
    )
    assert result.returncode == 0, result.stdout + log.read_text()[-3000:]
    assert "JobState=COMPLETED" in result.stdout
    assert "Restarts=1" in result.stdout
    out = log.read_text()
    assert out.count("Strategy: multiworker, 2 workers with 1 CPU device each") == 2
    assert out.count("nothing is lost") == 1  # only the chief prints it
    assert 5 <= int(re.search(r"Resuming from step (\d+) of 20", out)[1]) < 20
    assert out.count("epoch 4/4 5/5") == 1
    assert re.search(r"test log-likelihood \(DIWHVI, M=2, K=2\) +-\d+", out)
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    names = [n for n, kind in reader.get_variable_to_dtype_map().items() if kind != tf.string]
    assert all(np.isfinite(reader.get_tensor(n)).all() for n in names)
    assert (workdir / "saved_model" / "saved_model.pb").exists()


@pytest.mark.long
def test_a_sweep_is_an_array_whose_finished_cells_are_skipped(slurm, tmp_path, mnist_dir):
    sweep = [
        sys.executable,
        "launch/sweep.py",
        "--grid=bound=sivi,hvm",
        f"--out={tmp_path / 'out'}",
    ]
    flags = ["--", *(f for f in TINY if f != "--K=2"), f"--data_dir={mnist_dir}"]
    result = slurm(*sweep, "--slurm", "--sbatch=--wait", *flags)
    assert result.returncode == 0, result.stdout
    again = subprocess.run([*sweep, *flags], cwd=ROOT, capture_output=True, text=True)
    assert "Finished cells: 2 of 2." in again.stdout
    assert len(re.findall(r"(sivi|hvm) +-\d+\.\d+ +\d+\.\d+ +20 +6", again.stdout)) == 2
