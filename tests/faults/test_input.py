"""Every input either works, or leads to one line and exit status 2.

Flags, flagfiles, configurations, schedules, arrays and files are drawn at random; some are valid.
The suite has about 1,500 cases, always the same. The long form, `python -m tests.faults --long`,
has 100,000; see `tests.faults.cases`.
"""

import collections
import contextlib
import io
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver
from hypothesis import example, given
from hypothesis import strategies as st

import hvi_tf as hvi
from hvi_tf import randomness
from hvi_tf.cli import flagfiles, main, modes
from hvi_tf.cli import flags as setting_flags
from hvi_tf.config import config as config_lib
from hvi_tf.config import schedules
from hvi_tf.data import pipeline, pixels
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import loop, runs
from tests.faults import cases
from tests.faults.cases import folder, outcome, peak_memory
from tests.oracles.analytic import LinearGaussian, Refinable

Result = collections.namedtuple("Result", "status out err")


def up_to_tensorflow(task, start_up):
    """Replaces all that a command does after the checks of its flags and its workdir."""
    for epoch in (0, 1, task.config.training.epochs - 1):
        task.config.schedule(epoch)
    assert config_lib.Config.from_json(task.config.to_json()) == task.config
    for value in config_lib.flatten(task.config).values():
        assert not isinstance(value, int) or abs(value) < 2**63  # fits into int64
    if pathlib.Path.cwd() in task.path.absolute().parents and ".." not in task.path.parts:
        workdirs.create_or_open(task.path, task.config).close()


@pytest.fixture(scope="module", autouse=True)
def _small_and_without_tensorflow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "run", up_to_tensorflow)
        patch.setattr(os, "fsync", lambda descriptor: None)  # no case depends on the disk
        patch.setattr(pixels, "_CHUNK", 160)  # so that arrays of a test have several chunks
        yield


def call(*arguments):
    out, err, status = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.main(main._parse_flags(["hvi_tf.main", *arguments]))
        except SystemExit as stop:
            status = stop.code
    return Result(status, out.getvalue(), err.getvalue())


def assert_works_or_is_one_line(result):
    if result.status == 0:
        return
    assert result.status == 2, result
    assert result.err.startswith("error: "), result
    assert result.err.count("\n") == 1, result
    assert result.err.endswith("\n")


# Without absl's own flags that choose a log file, open a debugger or read files, and without flags
# that start workers.
FLAGS = sorted(
    {field.name for field in setting_flags.setting_fields()}
    | {"workdir", "mode", "replicas", "devices", "memory_growth", "device_report"}
    | {"verbosity", "stderrthreshold", "logger_levels"}
)
ODD = [
    *("", " ", "-", "=", ",", ",,", "\0", "\n", "a\nb", "\x1b[31m", "\u2028", "\ud800", "\udcff"),
    *("nan", "inf", "-inf", "-0", "-0.0", "1e309", "1e-400", "1e39", "0x10", "1_000", "٣", "½"),
    *("9" * 30, "9" * 400, "9" * 5_000, "a" * 300, "a" * 100_000, "é" * 200, "None", "True"),
    *("0:0", "0:0,5:5", "0:-1", "1:0", "0:" + "9" * 30, "300,300", "0,", "-1,2", "file", "file/w"),
]
numbers = st.one_of(st.integers(), st.integers(-2, 20), st.floats()).map(str)
values = st.one_of(
    st.sampled_from(ODD),
    numbers,
    st.text(max_size=20).filter(lambda text: not text.startswith(("/", "~")) and ".." not in text),
    st.lists(numbers, max_size=4).map(",".join),
    st.sampled_from(["vae", "iwae", "diwhvi", "bsvi", "sivi", "dsivi", "dreg", "hierarchical"]),
    st.sampled_from(["iaf", "evaluate", "fit_tau", "resnet", "pixelcnn", "svhn", "shu", "ais"]),
)
names = st.sampled_from(FLAGS)
known_flags = st.one_of(
    st.builds("--{}={}".format, names, values),
    st.builds("--{}".format, names),
    st.builds("--no{}".format, names),
)
any_flags = st.one_of(
    known_flags,
    st.text(max_size=20),
    st.text(max_size=20).map("--{}".format),
).filter(lambda flag: "flagfile" not in flag)


@cases.share(0.2)
@given(names, values)
@example("workdir", "a" * 100_000)
@example("workdir", "\0")
@example("workdir", "\ud800")
@example("data_dir", "\0")
@example("stderrthreshold", "")
@example("replicas", "9" * 30)
@example("kl_annealing_steps", "9" * 30)
def test_any_value_of_any_flag_works_or_is_refused(name, value):
    with folder():
        pathlib.Path("file").touch()
        assert_works_or_is_one_line(
            call(f"--{name}={value}", *["--workdir=w"] * (name != "workdir"))
        )


@cases.share(0.12)
@given(st.lists(any_flags, max_size=5))
def test_any_command_line_works_or_is_refused(arguments):
    with folder():
        assert_works_or_is_one_line(call(*arguments))


lines = st.one_of(
    known_flags,
    st.sampled_from(["", "# a comment", "// another", "--", "stray", "--flagfile=absent.cfg"]),
    st.sampled_from(["--flagfile=", "--flagfile=.", "--flagfile=\0", "--flagfile=a\udcffb"]),
    st.text(max_size=20),
).filter(lambda line: "undefok" not in line)


@cases.share(0.08)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(lines, max_size=5).map(lambda found: "\n".join(found).encode(errors="replace")),
    )
)
@example(b"--flagfile=\0")
@example(b"--bound=vae\n\xff\xfe")
@example(b"--flagfile=flags.cfg")
def test_any_flagfile_works_or_is_refused(content):
    with folder():
        pathlib.Path("flags.cfg").write_bytes(content)
        assert_works_or_is_one_line(call("--flagfile=flags.cfg"))


def test_a_long_chain_of_flagfiles_is_refused():
    with folder():
        for i in range(2_000):
            pathlib.Path(f"{i}.cfg").write_text(f"--flagfile={i + 1}.cfg\n")
        assert_works_or_is_one_line(call("--flagfile=0.cfg"))


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"# a comment\n\n--K=abc\n", ["flags.cfg, line 3: --K=abc: "]),
        (b"--bound=iwhvi\n--K=-1\n", ["flags.cfg, line 2: --K=-1: "]),
        (b"--M=1\n--hidden=3,x\n", ["flags.cfg, line 2: --hidden=3,x: "]),
        (b"--M=1\n--Kx=3\n", ["flags.cfg, line 2: ", "'Kx'"]),
        (b"--M=1\nstray\n", ["flags.cfg, line 2: stray: "]),
        (b"--nodebug=3\n", ["flags.cfg, line 1: --nodebug=3"]),
        (b"--K=x\n--K=5\n", ["flags.cfg, line 1: --K=x: "]),
        (b"--M=1\n--flagfile=inner.cfg\n", ["inner.cfg, line 2: --K=x: "]),
        (b"--flagfile=flags.cfg\n" * 2, ["flags.cfg may lead back to itself"]),
        (b"--flagfile\n", ["flags.cfg, line 1: "]),
        (b"--K=3\n# caf\xe9\n", ["flags.cfg, line 2: not UTF-8"]),
        ("--K=3\n".encode("utf-16"), ["flags.cfg, line 1: not UTF-8"]),
        ("--K\u200b=3\n".encode(), ["flags.cfg, line 1: ", r"K\u200b"]),
        (b"#" * 2**21, ["--flagfile=flags.cfg: ", str(2**21)]),
    ],
)
def test_a_mistake_in_a_flagfile_names_its_line(content, wanted):
    with folder():
        pathlib.Path("flags.cfg").write_bytes(content)
        pathlib.Path("inner.cfg").write_bytes(b"--M=2\n--K=x\n")
        result = call("--flagfile=flags.cfg", "--workdir=w")
    assert_works_or_is_one_line(result)
    assert result.status == 2
    for part in wanted:
        assert part in result.err


def test_a_flagfile_with_a_byte_order_mark_is_read():
    with folder():
        pathlib.Path("flags.cfg").write_bytes(b"\xef\xbb\xbf--batch_size=7\r\n--workdir=w\r\n")
        assert call("--flagfile=flags.cfg").status == 0
        assert '"batch_size": 7' in pathlib.Path("w/config.json").read_text()


def test_a_mistake_on_the_command_line_names_no_flagfile():
    with folder():
        pathlib.Path("flags.cfg").write_text("--K=3\n")
        assert call("--flagfile=flags.cfg", "--K=-1").err.startswith("error: --K=-1: ")


@pytest.mark.parametrize(
    ("flag", "shown"),
    [
        ("--K=" + "9" * 5_000, "(500"),
        ("--workdir=" + "a" * 5_000, "(501"),
        ("--bound=" + "x " * 5_000, "--bound=x x"),
        ("--bound=a\ufeff\u2028\x1b", r"--bound=a\ufeff\u2028\x1b"),
    ],
)
def test_a_long_or_invisible_value_is_shortened_or_escaped(flag, shown):
    result = call(flag)
    assert_works_or_is_one_line(result)
    assert shown in result.err
    assert len(result.err) < 5_000


@pytest.mark.parametrize(
    ("message", "has_place"),
    [
        ("--seed=x: must be a number", True),
        ("flag --seed=x: must be a number", True),
        ("Unknown command line flag 'seed'", True),
        ("cannot write /data/run-seed/x", False),
        ("out of memory; give a smaller --seed", False),
        ("cannot read 'a flag 'seed''", False),
    ],
)
def test_only_a_message_about_a_flag_names_its_line(message, has_place):
    with folder():
        pathlib.Path("flags.cfg").write_text("--seed=3\n")
        flagfiles.expand(["hvi_tf.main", "--flagfile=flags.cfg"])
    assert flagfiles.place(message) == ("flags.cfg, line 1: " if has_place else "")


CONFIG = config_lib.make(K=5, epochs=3, jit_compile="off")

atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(10**400)
)
anything = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def damaged_configs(draw):
    """Draws a stored configuration with one value, section or byte changed."""
    sections = json.loads(CONFIG.to_json())
    section = draw(st.sampled_from(sorted(sections)))
    kind = draw(st.sampled_from(["value", "name", "section", "new", "cut", "byte", "twice"]))
    name = draw(st.sampled_from(sorted(sections[section])))
    if kind == "value":
        sections[section][name] = draw(anything)
    elif kind == "name":
        sections[section][draw(st.text(max_size=8))] = sections[section].pop(name)
    elif kind == "section":
        sections[section] = draw(anything)
    elif kind == "new":
        sections[draw(st.text(max_size=8))] = draw(anything)
    content = bytearray(json.dumps(sections).encode())
    at = draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        del content[at:]
    elif kind == "byte":
        content[at] = draw(st.integers(0, 255))
    elif kind == "twice":
        content = b'{"data": {"split_seed": 1}, ' + content[1:]
    return bytes(content)


configs = st.one_of(damaged_configs(), anything.map(lambda v: json.dumps(v).encode()), st.binary())


@cases.share(0.15)
@given(configs, st.sampled_from(["train", "evaluate", "fit_tau", "export"]))
@example(b"[" * 100_000, "evaluate")
@example(b'{"data":' * 100_000, "train")
@example(b"1" * 5_000, "evaluate")
@example(b'{"training": {"learning_rate": 1' + b"0" * 400 + b"}}", "evaluate")
@example(b'{"training": {"batch_size": null}}', "evaluate")
@example(b'{"method": {"sir": "no", "bound": "bsvi"}}', "evaluate")
@example(b"{}", "evaluate")
def test_any_configuration_of_a_workdir_works_or_is_refused(content, mode):
    with folder() as here:
        (here / "w").mkdir()
        (here / "w" / "config.json").write_bytes(content)
        result = call(f"--mode={mode}", "--workdir=w")
        assert_works_or_is_one_line(result)
        outcome(workdirs.reconcile, here / "w", CONFIG, refusals=UserError)
        found, _ = outcome(workdirs.open_existing, here / "w", refusals=UserError)
        if found is not None:
            found.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the configuration has no sections"),
        ({"data": []}, "section 'data' of the configuration holds no settings"),
        ({"taste": {}}, "unknown section 'taste'"),
        ({"data": {"taste": 1}}, "unknown setting 'taste'"),
        ({"method": {"bound": ["vae"]}}, "--bound=['vae']: must be text"),
        ({"method": {"bound": "bsvi", "sir": "no"}}, "--sir='no': must be true or false"),
        ({"model": {"hidden": 300}}, "--hidden=300: must be whole numbers, such as 300,300"),
        ({"training": {"batch_size": None}}, "--batch_size=None: must be a whole number, at lea"),
        ({"training": {"learning_rate": 10**400}}, "00: must be a number, at least 0.0"),
    ],
)
def test_the_fault_of_a_configuration_is_named(content, message):
    with pytest.raises(UserError) as error:
        config_lib.Config.from_json(json.dumps(content))
    assert message in str(error.value)


@cases.share(0.1)
@given(
    st.one_of(
        st.text(max_size=20),
        st.text("0123456789:,- ٣_+", max_size=20),
        st.lists(st.tuples(st.integers(-1, 9), st.integers(-1, 99)), max_size=4).map(
            lambda steps: ",".join(f"{epoch}:{K}" for epoch, K in steps)
        ),
        st.sampled_from(ODD),
    ),
    st.integers(0, 10_000_000),
)
def test_any_schedule_of_k_works_or_is_refused(text, epoch):
    steps, line = outcome(schedules.parse_steps, text, 20)
    assert line is None or "\n" not in line
    assert steps is None or schedules.step_function(steps, epoch) in {K for _, K in steps}
    config, line = outcome(lambda: config_lib.make(K_schedule=text))
    assert line is None or line.startswith("--K")
    assert config is None or config.schedule(epoch).K >= 0


def images(split, n=3, width=16, dtype=np.uint8):
    rng = np.random.default_rng(len(split))
    if dtype in (np.uint8, np.int64):
        return rng.integers(0, 256, (n, width)).astype(dtype)
    return rng.uniform(size=(n, width)).astype(dtype)


dtypes = st.sampled_from([np.uint8, np.float32, np.float64, np.int64, np.float16, ">f4", "O", "U3"])
BAD_PIXELS = [np.nan, np.inf, -np.inf, -1e-6, 1.0 + 1e-6, 255.0]


@cases.share(0.12)
@given(st.data())
def test_any_arrays_of_a_data_set_work_or_are_named(data):
    """One of the three splits may be wrong, and the message must name the known fault."""
    draw = data.draw
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    count = draw(st.sampled_from([1, 3, 700]))
    arrays = {name: images(name, count, dtype=dtype) for name in ("train", "validation", "test")}
    split, shape, wanted = draw(st.sampled_from(sorted(arrays))), (4, 4, 1), None
    kind = draw(st.sampled_from(["right", "rank", "width", "dtype", "empty", "pixel", "shape"]))
    if kind == "rank":
        arrays[split] = arrays[split].reshape(
            draw(st.sampled_from([(-1,), (-1, 4, 4), (16, 1, -1)]))
        )
        wanted = [split, f"shape {arrays[split].shape}; wanted (N, 16), flat images of 4x4x1"]
    elif kind == "width":
        arrays[split] = images(split, width=draw(st.sampled_from([0, 1, 15, 17, 48])), dtype=dtype)
        wanted = [split, f"shape {arrays[split].shape}; wanted (N, 16)"]
    elif kind == "dtype":
        other = draw(dtypes.filter(lambda found: found not in (dtype, np.uint8, np.float32)))
        arrays[split] = arrays[split].astype(other)
        wanted = [split, f"{arrays[split].dtype} pixels; wanted uint8 0 to 255 or float32 0 to 1"]
    elif kind == "empty":
        arrays[split] = arrays[split][:0]
        wanted = [split, "no images"]
    elif kind == "pixel" and dtype == np.float32:
        image, pixel = draw(st.integers(0, count - 1)), draw(st.integers(0, 15))
        arrays[split][image:, pixel] = draw(st.sampled_from(BAD_PIXELS))
        value = arrays[split][image, pixel]
        wanted = [split, f"pixel {pixel} of image {image} is {value}; wanted 0 to 1"]
    elif kind == "shape":
        shape = draw(st.lists(st.sampled_from([0, 1, 3, 4, 5, -4, 16, 4.0, None]), max_size=4))
        shape = tuple(shape)
        sides = [size for size in shape if type(size) is int and size > 0]
        if len(shape) != 3 or len(sides) != 3:
            wanted = [f"image_shape={shape}; wanted (height, width, channels)"]
        elif np.prod(sides) != 16:
            wanted = ["train", f"shape ({count}, 16); wanted (N, {np.prod(sides)})"]
    _, line = outcome(pixels.check, Dataset(**arrays, image_shape=shape), "mnist")
    assert (line is None) == (wanted is None), line
    for part in wanted or ():
        assert part in line


@pytest.mark.parametrize(
    ("shape", "values", "message"),
    [
        ((4, 4, 1), dict(encoder="resnet", resnet_channels=(2,), decoder="pixelcnn"), None),
        ((2, 8, 1), dict(encoder="resnet"), "--encoder=resnet: images of mnist are 2x8x1, but it"),
        ((2, 8, 1), dict(decoder="pixelcnn"), "--decoder=pixelcnn: images of mnist are 2x8x1"),
        ((2, 2, 4), dict(decoder="pixelcnn"), "takes square images of one channel; choose --decod"),
        ((2, 2, 4), {}, None),
        ((4, 4, 1), dict(batch_size=2), "--batch_size=2: mnist has only 1 training image"),
    ],
)
def test_images_that_do_not_fit_networks_or_batches_are_refused(shape, values, message):
    one = images("train", 1)
    config = config_lib.make(**{"batch_size": 1, **values})
    _, line = outcome(runs.check_data, config, Dataset(one, one, one, shape))
    assert line is None if message is None else message in line


def test_splits_of_different_dtypes_and_lists_are_refused():
    bytes_, floats = images("train"), images("train", dtype=np.float32)
    mixed = Dataset(bytes_, floats, bytes_, (4, 4, 1))
    with pytest.raises(UserError, match="mnist, validation: float32 pixels; those of train are"):
        pixels.check(mixed, "mnist")
    with pytest.raises(UserError, match="mnist, train: a list; wanted a NumPy array"):
        pixels.check(mixed._replace(train=[[0] * 16]), "mnist")


def test_one_image_is_enough_to_train_on_and_to_score():
    one = images("train", 1)
    data = Dataset(one, one, one, (4, 4, 1))
    config = config_lib.make(
        bound="vae", hidden=(4,), latent_dim=2, batch_size=1, jit_compile="off"
    )
    runs.check_data(config, data)
    model = make_vae(config, 16)
    batches = iter(pipeline.training_batches(data.train, 1, 0, 0, 2))
    assert np.isfinite(loop.StepRunner(model)(batches, 2).values).all()
    observed = pipeline.fixed_observation(one, "bernoulli", 0, randomness.Purpose.VALIDATE)
    assert np.isfinite(loop.validate(model, observed, 0).log_likelihood)


def test_the_check_of_pixels_takes_little_time_and_no_memory(monkeypatch):
    """uint8 pixels are not read: 600,000 views of one row replace the images of SVHN."""
    many = np.broadcast_to(np.zeros(1024, np.uint8), (600_000, 1024))
    floats = np.zeros((20_000, 784), np.float32)
    with monkeypatch.context() as patch:
        patch.setattr(pixels, "_chunks", lambda images: pytest.fail("has read the pixels"))
        pixels.check(Dataset(many, many, many, (32, 32, 1)), "svhn")
    with peak_memory() as peak:
        pixels.check(Dataset(floats, floats, floats, (28, 28, 1)), "omniglot")
        assert peak() < 2**20


# Observations that no model can take; others are refused when the model is traced.
no_observations = st.one_of(
    st.sampled_from([None, {}, "text", [], [[]], [[1.0], [1.0, 2.0]], 1.0, object(), [[10**400]]]),
    st.sampled_from([np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3), "O"), np.float64(1)]),
)
other_observations = st.builds(
    np.zeros,
    st.sampled_from([(2, 4), (2, 0), (1, 1), (2, 4, 5)]),
    st.sampled_from([np.float64, np.float32, np.int32, bool, "U2", complex]),
)


@cases.share(0.02)
@given(st.one_of(no_observations, other_observations))
@example(np.zeros((0, 3)))
@example(np.zeros((2, 4)))
def test_wrong_observations_of_a_model_are_refused(x):
    """All entry points raise an error that names the argument."""
    model, refinable = LinearGaussian().model, Refinable()
    variables = hvi.ParameterGroups(eta=[tf.Variable(0.0)])
    for entry_point in (
        lambda: hvi.evidence(model, x, K=2, M=2),
        lambda: hvi.fit(model, x, variables, K=2),
        lambda: hvi.fit(model, lambda step: x, variables, K=2),
    ):
        with pytest.raises(ValueError, match=r"^(x|conditional): "):
            entry_point()
    with pytest.raises((ValueError, TypeError), match=r"^(x|localize|conditional)"):
        hvi.refined_evidence(refinable.localize, x, steps=1, learning_rate=0.1)


def test_a_million_replicas_are_refused():
    result = call("--strategy=mirrored", "--replicas=1000000")
    assert_works_or_is_one_line(result)
    assert "--replicas=1000000" in result.err


def test_debug_adds_a_traceback_before_the_line():
    result = call("--debug", "--K=-1")
    assert result.status == 2
    assert result.err.startswith("Traceback")
    assert result.err.splitlines()[-1].startswith("error: --K=-1: must be a whole number")
    assert "Traceback" not in call("--K=-1").err
