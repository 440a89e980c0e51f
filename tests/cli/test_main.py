"""The command itself, on real MNIST with networks small enough for a test.

A separate process takes seconds to import TensorFlow and to read MNIST. `run` starts one only
if a test checks the process itself: its output in a pipe, its signals, or an exit status
before TensorFlow is imported. `call` runs the command in this process.
"""

import contextlib
import functools
import gc
import io
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from absl.testing import flagsaver
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hvi_tf.cli import flags as setting_flags
from hvi_tf.cli import main
from hvi_tf.config import config as config_lib
from hvi_tf.data import datasets
from hvi_tf.errors import UserError
from tests.oracles.runs import assert_same_weights, final_weights

FLAGFILES = pathlib.Path(__file__).resolve().parents[2] / "flags"
TINY = [
    *("--hidden=16,16", "--latent_dim=4", "--aux_dim=3", "--K=2"),
    *("--batch_size=1024", "--epochs=3", "--steps_per_call=7"),  # 53 steps an epoch
    *("--lr_schedule=exponential", "--lr_warmup_steps=0"),  # allows more epochs later
    *("--eval_M=4", "--eval_K=3", "--eval_images=60"),
]


def start(*arguments, **keywords):
    command = [sys.executable, "-m", "hvi_tf.main", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )


def run(*arguments, **keywords):
    process = start(*arguments, **keywords)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def call():
    """Runs the command in this process, which reads MNIST once for all calls."""

    def call(*arguments):
        argv, status = ["hvi_tf.main", *map(str, arguments)], 0
        out, err = io.StringIO(), io.StringIO()
        with (
            flagsaver.flagsaver(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main.main(main._parse_flags(argv))
            except SystemExit as stop:
                status = stop.code
        gc.collect()  # frees the lock of the workdir, as the end of a process does
        return subprocess.CompletedProcess(argv, status, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load", functools.cache(datasets.load))
        yield call


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mnist_dir):
    """Runs the whole command; returns its workdir and its output."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    result = run(*TINY, f"--data_dir={mnist_dir}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr[-3000:]
    return workdir, result.stdout


@pytest.fixture
def copy_of_finished(finished, tmp_path):
    """Copies the finished run for tests that continue it."""
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_output_in_a_pipe_is_plain_lines_that_name_every_score(finished):
    workdir, out = finished
    assert "\r" not in out
    assert re.search(r"epoch 3/3 53/53 [\d.]+ steps/s  0:00 left  train -\d.* validation -\d", out)
    for name in (
        r"test log-likelihood \(DIWHVI, M=4, K=3\) +-\d+\.\d+ \+- \d+\.\d+ nats",
        r"test bound \(M=1, K=3\)",
        r"KL\(tau\|\|q\(psi\|x\)\)",
        r"KL\(tau\|\|q\(psi\|x,z\)\), at least",
        r"KL\(q\(psi\|x\)\|\|q\(psi\|x,z\)\), at least",
        "effective sample size, outer .* of 4",
        "effective sample size, inner .* of 4",
        "images +60 of the test split",
        "wall time",
    ):
        assert re.search(name, out), name
    for folder in ("best", "saved_model", "tensorboard"):
        assert f"{workdir / folder}" in out
        assert (workdir / folder).is_dir()
    assert f"--workdir={workdir} --mode=evaluate" in out


def test_the_first_step_is_printed_with_the_seconds_of_each_part(finished):
    parts = ("imports", "data", "model", "compilation and step")
    pattern = ", ".join(rf"{part} [\d.]+" for part in parts)
    (line,) = re.findall(rf"First step after [\d.]+ s \({pattern}\)\.\n", finished[1])
    whole, *parts = map(float, re.findall(r"\d+\.\d", line))
    assert abs(whole - sum(parts)) <= 0.051 * (len(parts) + 1)  # each is rounded
    assert parts[0] > 0.1  # the time since the process began


def test_tensorboard_has_scalars_images_and_the_config(finished):
    events = EventAccumulator(str(finished[0] / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    tags = set(events.Tags()["tensors"])
    assert {
        "config",
        "reconstructions",
        "prior_samples",
        "validation/bound",
        "train/bound",
        "train/log_likelihood",
        "diagnostics/kl_tau_mixing",
        "diagnostics/kl_tau_posterior",
        "diagnostics/kl_mixing_posterior",
        "diagnostics/ess_inner",
        "diagnostics/ess_outer",
        "diagnostics/tau_collapsed",
        "train/kl_z",
        "train/kl_tau_mixing",
        "train/ess_inner",
        "train/ess_outer",
        "train/gradient_norm_eta",
        "schedule/learning_rate",
        "schedule/K",
        "speed/steps_per_second",
    } <= tags
    assert "train/warmup_objective" not in tags  # this run has no warmup
    steps = [e.step for e in events.Tensors("train/bound")]
    assert steps == [53, 106, 159]


def test_the_same_command_again_prints_that_the_run_is_complete(finished, mnist_dir, call):
    workdir, out = finished
    before = final_weights(workdir)
    again = call(*TINY, f"--data_dir={mnist_dir}", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "was complete, 159 steps" in again.stdout
    score = re.compile(r"test log-likelihood.*")
    assert score.search(again.stdout)[0] == score.search(out)[0]
    after = final_weights(workdir)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


def test_evaluate_mode_accepts_other_counts_but_no_other_model(finished, mnist_dir, call):
    workdir = finished[0]
    common = ("--mode=evaluate", f"--workdir={workdir}", f"--data_dir={mnist_dir}")
    here = ("--devices=cpu", "--device_report")
    result = call(*common, *here, "--eval_M=9", "--eval_K=0", "--eval_images=30")
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r"computes on +cpu:0\n", result.stdout)
    assert "First step" not in result.stdout
    assert "test log-likelihood (DIWHVI, M=9, K=0)" in result.stdout
    assert list(workdir.glob("evaluation/test_step*_M9_K0.npz"))
    refused = run(*common, "--K=7")
    assert refused.returncode == 2
    assert "holds another run: --K: 2 -> 7" in refused.stderr


@pytest.mark.long
def test_annealed_importance_sampling_prints_its_bounds(finished, mnist_dir, call):
    """Checks the lower bound on test images, and both bounds on images drawn from the model."""
    common = (f"--workdir={finished[0]}", f"--data_dir={mnist_dir}", "--eval_images=8")
    annealing = ("--estimator=ais", "--ais_chains=4", "--ais_steps=20", "--ais_leapfrog_steps=4")
    result = call("--mode=evaluate", *common, *annealing)
    assert result.returncode == 0, result.stderr[-2000:]
    for name in (
        r"test log-likelihood, at least \(AIS, 4 chains, 20 temperatures\) +-\d+\.\d+ \+- \d+",
        r"acceptance +0\.\d+",
        r"8 simulated images: log p\(x\), at least",
        r"8 simulated images: log p\(x\), at most",
    ):
        assert re.search(name, result.stdout), name


@pytest.mark.long
def test_fit_tau_gives_a_sivi_run_its_diwhvi_score(tmp_path, mnist_dir, call):
    """Fits a new tau to frozen p and q, resumes the fit, and evaluates it like any other run."""
    workdir, data = tmp_path / "sivi", f"--data_dir={mnist_dir}"
    tiny = [*TINY, "--bound=sivi", "--epochs=1", "--eval_K=30"]
    assert call(*tiny, data, f"--workdir={workdir}").returncode == 0
    fit = ("--mode=fit_tau", f"--workdir={workdir}", data, "--K=5", "--gradient=dreg")
    result = call(*fit, "--tau_epochs=2")
    assert result.returncode == 0, result.stderr[-2000:]
    assert "test log-likelihood (DIWHVI, M=4, K=30)" in result.stdout
    (fitted,) = workdir.glob("fit_tau_step53_*")
    validation = [float(v) for v in re.findall(r"validation (-[\d.]+)", result.stdout)]
    assert len(validation) == 2
    assert validation[1] > validation[0]  # U_K fell, because only tau is trained
    before, after = (final_weights(w) for w in (workdir, fitted))
    for name, value in before.items():
        if name.startswith(("decoder", "encoder")):
            np.testing.assert_array_equal(value, after[name], err_msg=name)
    assert any(name.startswith("inverse") for name in after)
    # The same command resumes the fit, and other commands can evaluate it.
    again = call(*fit, "--tau_epochs=3")
    assert "Resuming from step 106 of 159." in again.stdout
    by_sivi, by_mixture = (
        call("--mode=evaluate", f"--workdir={fitted}", data, f"--estimator={name}")
        for name in ("sivi", "diwhvi-mixture")
    )
    scores = [
        float(re.search(r"log-likelihood .*\) +(-[\d.]+)", text)[1])
        for text in (again.stdout, by_sivi.stdout, by_mixture.stdout)
    ]
    assert np.ptp(scores) < 5  # same p and q, different tau


def test_export_mode_writes_a_saved_model(copy_of_finished, mnist_dir, call):
    exported = copy_of_finished / "saved_model" / "saved_model.pb"
    exported.unlink()
    # A flagfile gives the flags of the training again.
    common = ("--jit_compile=auto", f"--workdir={copy_of_finished}", f"--data_dir={mnist_dir}")
    result = call(*TINY, "--mode=export", *common)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "SavedModel of step 159" in result.stdout
    assert exported.exists()


def test_the_export_is_scored_on_the_runs_data(copy_of_finished, mnist_dir, call):
    """Scores the export without a checkpoint, and refuses to read one outside the workdir."""
    shutil.rmtree(copy_of_finished / "checkpoints")
    shutil.rmtree(copy_of_finished / "best")
    common = ("--mode=evaluate", f"--workdir={copy_of_finished}", f"--data_dir={mnist_dir}")
    result = call(*common, "--saved_model=saved_model")
    assert result.returncode == 0, result.stderr[-2000:]
    assert re.search(r"test log-likelihood \(SavedModel, M=4, K=3\) +-\d+\.\d+ \+-", result.stdout)
    assert not re.search(r"^checkpoint ", result.stdout, re.M)
    elsewhere = copy_of_finished.with_name("elsewhere")
    (copy_of_finished / "saved_model").rename(elsewhere)
    for name in (elsewhere, "../elsewhere"):
        refused = run(*common, f"--saved_model={name}")
        assert_one_line_error(refused, f"--saved_model={name}: ", "a SavedModel is a program")
        trusted = call(*common, f"--saved_model={name}", "--trust_saved_model")
        assert trusted.returncode == 0, trusted.stderr[-2000:]
    assert_one_line_error(run(*common, "--saved_model=none"), "no saved_model.pb in ")


@pytest.mark.parametrize("section", ["evaluation", "data", "training", "saved_model"])
def test_a_stored_configuration_neither_names_nor_trusts_a_saved_model(
    section, copy_of_finished, mnist_dir
):
    file = copy_of_finished / "config.json"
    config = json.loads(file.read_text())
    config.setdefault(section, {}).update(saved_model="/x", trust_saved_model=True)
    file.write_text(json.dumps(config))
    result = run("--mode=evaluate", f"--workdir={copy_of_finished}", f"--data_dir={mnist_dir}")
    assert_one_line_error(result, "cannot read ", "unknown s", "saved_model")


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
def test_a_run_stopped_by_ctrl_c_and_then_sigkill_ends_bit_identical(
    finished, tmp_path, mnist_dir, call
):
    """Checks that Ctrl-C saves a checkpoint and prints how to resume; SIGKILL keeps the last."""
    workdir = tmp_path / "interrupted"
    process = start(*TINY, f"--data_dir={mnist_dir}", f"--workdir={workdir}")
    wait_for(lambda: (workdir / "checkpoints" / "ckpt-53.index").exists(), process)
    time.sleep(0.3)  # the file exists before the epoch ends
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err[-2000:]
    resume = out.strip().splitlines()[-1].strip()
    assert "nothing is lost" in out
    arguments = shlex.split(resume)
    assert arguments[:3] == ["python", "-m", "hvi_tf.main"]

    process = start(*arguments[3:])
    wait_for(lambda: (workdir / "checkpoints" / "ckpt-106.index").exists(), process)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    stopped_at = int(re.search(r"Resuming from step (\d+) of 159", out)[1])
    assert 53 < stopped_at < 106  # in the middle of an epoch
    assert not (workdir / "checkpoints" / "ckpt-159.index").exists()

    resumed = call(*arguments[3:])
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "Resuming from step 106 of 159" in resumed.stdout
    assert_same_weights(workdir, finished[0])


def assert_one_line_error(result, *parts):
    assert result.returncode == 2, (result.stdout, result.stderr)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    for part in parts:
        assert part in errors[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("hvi_tf.main", "--workdir=gs://b/x"),
        ("hvi_tf.main", "--data_dir=gs://b/x"),
        ("hvi_tf.reproduce", "laplace", "--out=gs://b/x"),
        ("hvi_tf.report", ".", "--copy_to=gs://b/x"),
        ("hvi_tf.benchmark", "--out=gs://b/x"),
        ("hvi_tf.benchmark", "--store=gs://b/x.json"),
    ],
)
def test_no_command_writes_to_a_url(command, tmp_path):
    """Checks that no command makes a folder named `gs:`."""
    environment = {**os.environ, "PYTHONPATH": str(FLAGFILES.parent)}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
    )
    assert_one_line_error(result, f"{command[-1]}: is a URL")
    assert not list(tmp_path.iterdir())


def test_a_workdir_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with flagsaver.flagsaver(workdir="~/runs/x"):
        assert main._workdir_path() == tmp_path / "runs" / "x"


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--dataset=imagenet", "--dataset=imagenet: unknown; choose one of mnist"),
        ("--bound=elbow", "--bound=elbow: unknown; choose one of vae"),
        ("--bound=vae --K=5", "--K=5: --bound=vae has no K"),
        ("--K=-1", "--K=-1: must be a whole number, at least 0"),
        ("--K=many", "--K=many: must be a number"),
        ("--bound=iwae --M=0", "--M=0: must be"),
        ("--L=-2", "--L=-2"),
        ("--batch_size=0", "--batch_size=0: must be"),
        ("--batch_size=90000", "--batch_size=90000"),
        ("--epochs=-3", "--epochs=-3: must be"),
        ("--hidden=300,many", "--hidden=300,many: must be whole numbers"),
        ("--mode=dance", "--mode=dance: choose one of train, fit_tau, evaluate, export"),
        ("--mode=evaluate", "--mode=evaluate: name the run's --workdir"),
        ("--precision=half", "--precision=half: choose float32 or bfloat16"),
        ("--devices=gpu:7", "--devices=gpu:7: this machine has no gpu:7; choose from cpu:0"),
        ("--epoch=3", "epoch"),
        ("stray", "stray: not a flag"),
    ],
)
def test_bad_flags_print_one_line_and_write_nothing(flag, message, tmp_path, mnist_dir):
    result = run(*flag.split(), f"--data_dir={mnist_dir}", cwd=tmp_path, env=environment())
    assert_one_line_error(result, message)
    assert not list(tmp_path.iterdir())


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}


def test_the_error_lists_the_settings_that_differ_from_the_workdir(finished, mnist_dir):
    result = run(*TINY, "--K=3", "--seed=1", f"--data_dir={mnist_dir}", f"--workdir={finished[0]}")
    assert_one_line_error(result, "--K: 2 -> 3", "--seed: 0 -> 1")


def test_the_error_of_a_divergence_names_the_step_and_the_term(tmp_path, mnist_dir, call):
    common = (*TINY, f"--data_dir={mnist_dir}", f"--workdir={tmp_path / 'w'}")
    result = call(*common, "--learning_rate=1e12")
    assert_one_line_error(result, "dumped as", "training stopped, no checkpoint yet")
    assert re.search(r"step \d+: \w+ is (nan|-?inf)", result.stderr)


def test_more_epochs_resume_the_run_even_after_a_full_disk(copy_of_finished, mnist_dir, call):
    """Replaces a full disk by a limit on file sizes, under which writes fail in the same way."""
    common = (*TINY, "--epochs=4", f"--data_dir={mnist_dir}", f"--workdir={copy_of_finished}")
    with files_up_to(64 * 1024):
        result = call(*common)
    assert_one_line_error(result, f"cannot write {copy_of_finished}")
    resumed = call(*common)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert "Resuming from step 159 of 212" in resumed.stdout


@contextlib.contextmanager
def files_up_to(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.long
def test_a_refined_run_is_scored_by_every_estimator_and_draws_images(tmp_path, mnist_dir, call):
    """Stores an estimator and its steps in the run, as the flagfiles of tables 4 to 6 do."""
    workdir = tmp_path / "bsvi"
    data = f"--data_dir={mnist_dir}"
    sizes = ("--hidden=16,16", "--latent_dim=4", "--batch_size=512", "--eval_images=20")
    trained = call(
        *(*sizes, data, f"--workdir={workdir}", "--bound=bsvi", "--svi_steps=2", "--max_steps=6"),
        *("--epochs=1", "--estimator=bsvi", "--eval_steps=3", "--eval_M=2"),
        "--kl_annealing_steps=4",
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "epoch 1/1 6/6" in trained.stdout
    for name in (r"\(BSVI-3\)", r"ELBO\* \(SVI-3\)", r"KL\* ", r"Reconstruction\* "):
        assert re.search(name + r" +-?\d+\.\d+ \+- \d+\.\d+ nats", trained.stdout)
    evaluate = ("--mode=evaluate", f"--workdir={workdir}", data, "--eval_images=20")
    expected = {
        ("--estimator=svi", "--eval_steps=2"): "ELBO* (SVI-2)",
        ("--estimator=iwae", "--eval_steps=2"): "test log-likelihood (IWAE, M=10)",
        ("--estimator=iwae", "--eval_M=2"): "test log-likelihood (IWAE, M=2)",
        ("--estimator=ais", "--ais_steps=5", "--ais_chains=2"): "AIS, 2 chains, 5 temperatures",
    }
    for flags, line in expected.items():
        result = call(*evaluate, *flags)
        assert result.returncode == 0, result.stderr[-3000:]
        assert line in result.stdout
        assert "damaged" not in result.stdout
    drawn = call("--mode=sample", f"--workdir={workdir}", data, "--num_samples=5")
    assert "5 images" in drawn.stdout
    assert (workdir / "samples_step6_N5.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--encoder=resnet --resnet_channels=1,1,1,1,1", "cannot be halved 5 times"),
        ("--dataset=svhn --split=shu --manual_dir=nowhere", "_32x32.mat is missing"),
        ("--bound=bsvi --svi_steps=0", "--svi_steps=0: must be a whole number, at least 1"),
        ("--bound=vae --pi=learned", "--pi=learned: for --bound=bsvi; give that"),
    ],
)
def test_unusable_settings_print_one_line_before_training(
    flags, message, tmp_path, mnist_dir, call
):
    workdir = tmp_path / "none"
    result = call(*flags.split(), f"--data_dir={mnist_dir}", f"--workdir={workdir}")
    assert_one_line_error(result, message)
    assert not workdir.exists()


def test_help_does_not_import_tensorflow():
    code = (
        "import sys, hvi_tf.main; "
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    result = run("--help")
    assert result.returncode == 0
    for name in (
        "--devices",
        "--[no]memory_growth",
        "--precision",
        "--K_schedule",
        "--tau_gate_bias",
        "--eval_images",
        "--mode",
    ):
        assert name in result.stdout
    assert "ten minutes on 2 cores" in " ".join(result.stdout.split())


def test_every_flagfile_is_valid():
    files = sorted(FLAGFILES.iterdir())
    assert "mnist_iwhvi.cfg" in [file.name for file in files]
    for file in files:
        config = config_of(f"--flagfile={file}")
        assert config.data.dataset in file.name
    with pytest.raises(UserError, match="--batch_size=0: must be"):
        config_of(f"--flagfile={file}", "--batch_size=0")


def config_of(*arguments):
    """Returns the configuration after the checks that a training makes before it begins."""
    with flagsaver.flagsaver():
        assert setting_flags.FLAGS(["hvi_tf.main", *arguments]) == [
            "hvi_tf.main"
        ]  # every argument is a flag
        config = config_lib.make(**setting_flags.values())
    datasets.check(config.data)
    return config
