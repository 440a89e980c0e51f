"""A SavedModel scores images as its checkpoint does, and is loaded only if it is trusted."""

import dataclasses
import functools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config import rules as validation
from hvi_tf.config.settings import SavedModelConfig
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.evaluation import evaluate, table
from hvi_tf.evaluation import saved_model as saved_models
from hvi_tf.inference.plans import Plan
from hvi_tf.models.export import ExportedModel, export
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs

PIXELS = np.random.default_rng(0).integers(0, 256, (700, 12)).astype(np.uint8)
DATA = Dataset(train=255 - PIXELS, validation=PIXELS[:50], test=PIXELS, image_shape=(3, 4, 1))


def settings(**values):
    base = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, prior_dim=2, jit_compile="off")
    return config_lib.derive(base | dict(eval_M=3, eval_K=2, eval_images=700), **values)


class Exported:
    """A run with its initial weights as checkpoint, and its SavedModel."""

    def __init__(self, path, **values):
        self.values = values
        self.workdir = workdirs.create_or_open(path, settings(**values))
        self.model = make_vae(settings(**values), 12)
        export(self.model, self.workdir.saved_model)

    def by_checkpoint(self, **values):
        config = settings(**self.values | values)
        return evaluate.evaluate(config, self.model, DATA, self.workdir, step=1)

    def by_saved_model(self, name="saved_model", **values):
        path = saved_models.find(SavedModelConfig(str(name)), self.workdir.path)
        config = settings(**self.values | values)
        return evaluate.evaluate_saved_model(config, path, DATA, self.workdir)


@pytest.fixture(scope="module")
def hierarchical(tmp_path_factory):
    run = Exported(tmp_path_factory.mktemp("runs") / "iwhvi", bound="iwhvi")
    yield run
    run.workdir.close()


def scores(summary, name="log_likelihood"):
    with np.load(summary["scores"], allow_pickle=False) as file:
        return file[name][: summary["images"]]


@pytest.mark.parametrize("bound", ["vae", "iwae", "hvm"])
def test_without_psi_it_scores_as_its_checkpoint(bound, tmp_path):
    """The scores agree with many images per call, and with several chunks per image."""
    run = Exported(tmp_path / bound, bound=bound)
    K = dict(eval_K=0) if bound == "hvm" else {}
    for few in (dict(eval_M=3), dict(eval_M=20_001, eval_images=2)):
        own = run.by_checkpoint(**K, **few)
        saved = run.by_saved_model(**K, **few)
        assert saved["K"] == 0
        assert all("K=" not in name for name, _ in table.score_rows(saved))
        for name in saved_models.SCORES:
            np.testing.assert_allclose(scores(saved, name), scores(own, name), rtol=2e-4)
    run.workdir.close()


@pytest.mark.parametrize("foreign", [False, True])
def test_a_saved_model_of_another_run_draws_its_own_psi(hierarchical, tmp_path, foreign):
    """A foreign SavedModel may lack the function that returns whether it draws psi."""
    run = Exported(tmp_path / "vae", bound="vae")
    module = ExportedModel(hierarchical.model)
    if foreign:
        module.draws_psi = None
    save(run.workdir.path / "other", module)
    config = config_lib.for_saved_model(config_lib.flatten(run.workdir.config), eval_K=7)
    score = functools.partial(evaluate.evaluate_saved_model, data=DATA, workdir=run.workdir)
    assert score(config, (run.workdir.path / "other").resolve())["K"] == 7
    with pytest.raises(UserError, match="--eval_K=7: this SavedModel draws no psi; leave it out"):
        score(config, run.workdir.saved_model.resolve())
    run.workdir.close()


# The first has the z of the checkpoint's score; the second has other z, too.
@pytest.mark.parametrize(
    ("bound", "K", "alike"), [("iwhvi", 20, 0.9), ("diwhvi-mixture", 1_000, 0.5)]
)
def test_with_psi_it_scores_as_its_checkpoint_up_to_the_draws(bound, K, alike, tmp_path):
    run = Exported(tmp_path / bound, bound=bound)
    many = dict(eval_M=200, eval_K=K, eval_images=200)
    own = scores(run.by_checkpoint(**many))
    saved = scores(run.by_saved_model(**many))
    run.workdir.close()
    difference = saved - own
    assert np.corrcoef(own, saved)[0, 1] > alike
    assert abs(difference.mean()) < 4.8 * difference.std() / np.sqrt(200)


def test_the_summary_names_the_saved_model(hierarchical, capsys):
    summary = hierarchical.by_saved_model(eval_images=300)
    path = hierarchical.workdir.saved_model.resolve()
    assert (summary["estimator"], summary["saved_model"]) == ("saved_model", str(path))
    assert (summary["step"], summary["images"]) == (None, 300)
    (stored,) = hierarchical.workdir.evaluation.glob("test_saved_model_*_M3_K2_N300.json")
    assert json.loads(stored.read_text()) == summary
    printed = table.render(settings(), hierarchical.workdir, summary, None, 1.0)
    assert "test log-likelihood (SavedModel, M=3, K=2)  -" in printed
    assert f"SavedModel {path} (SHA-256 {summary['sha256'][:12]}...)" in printed
    other = hierarchical.by_saved_model(eval_split="train", eval_images=300)
    assert other["log_likelihood"] != summary["log_likelihood"]


def test_an_interrupted_score_resumes_and_another_model_has_other_files(hierarchical, interrupted):
    whole = hierarchical.by_saved_model()
    expected = scores(whole).copy()
    os.remove(whole["scores"])
    with interrupted():
        hierarchical.by_saved_model()
    np.testing.assert_array_equal(scores(hierarchical.by_saved_model()), expected)

    bias = hierarchical.model.decoder.later_layers[-1].bias
    before = bias.numpy()
    bias.assign(np.full(12, 1.0))
    other = hierarchical.workdir.path / "other"
    export(hierarchical.model, other)
    bias.assign(before)
    assert not np.allclose(scores(hierarchical.by_saved_model("other")), expected)
    np.testing.assert_array_equal(scores(hierarchical.by_saved_model()), expected)


def test_draws_beyond_m_are_not_scored():
    """The second of two chunks has one draw too many, with a large weight."""
    chunks = iter([[1.0, 2.0], [6.0, 1e6]])
    plan = Plan(M=3, K=0, L=1, images=1, chunk_m=2, chunk_k=0, chunk_l=1)
    scorer = saved_models.make_scorer(
        lambda x, M, K, seed: tf.math.log([[w] for w in next(chunks)]), plan, K=0
    )
    log_likelihood, bound, ess = scorer(tf.zeros([1, 12]), tf.constant([0, 1]))
    np.testing.assert_allclose(log_likelihood, [np.log(3.0)], rtol=1e-6)
    np.testing.assert_allclose(bound, [np.log(12.0) / 3], rtol=1e-6)
    np.testing.assert_allclose(ess, [81 / 41], rtol=1e-6)


def test_memory_stays_bounded(hierarchical, monkeypatch):
    """A call has at most so many rows, M (K + 1) B, for any counts; too large a K is refused."""
    calls = []

    def load(path, x_dim):
        def log_weights(x, M, K, seed):
            calls.append(M * (K + 1) * len(x))
            return tf.zeros([M, len(x)])

        return saved_models.Loaded(log_weights, True)

    monkeypatch.setattr(saved_models, "load", load)
    for M, K in ((1, 1), (5000, 100), (300, 9000)):
        calls.clear()
        hierarchical.by_saved_model(eval_M=M, eval_K=K, eval_images=1)
        assert 0 < max(calls) <= 16_384 + K
    with pytest.raises(UserError, match="--eval_K=200000: a SavedModel draws all psi of a z at"):
        hierarchical.by_saved_model(eval_K=200_000)


class Module(tf.Module):
    """A SavedModel with `function` of x, M, K and seed as its log-weights."""

    def __init__(self, function, x=(None, 12), dtype=tf.float32):
        super().__init__()
        count = tf.TensorSpec([], tf.int32)
        signature = [tf.TensorSpec(x, dtype), count, count, tf.TensorSpec([2], tf.int32)]

        @tf.function(input_signature=signature)
        def log_weights(x, M, K, seed):
            return {"log_weights": function(x, M, K, seed)}

        self.log_weights = log_weights


def save(folder, module, name="log_weights"):
    tf.saved_model.save(module, str(folder), signatures={name: module.log_weights})
    return folder


def zeros(x, M, K, seed):
    return tf.zeros([M, tf.shape(x)[0]])


def nonsense(x, M, K, seed):
    return tf.zeros([M, 3])


def failing(x, M, K, seed):
    with tf.control_dependencies([tf.debugging.assert_less(M, 0, "on purpose")]):
        return zeros(x, M, K, seed)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: save(f, Module(zeros), "serve"), "without the signature log_weights; export"),
        (lambda f: save(f, Module(zeros, (None, 9))), "images of 9 pixels, but the run's have 12"),
        (lambda f: save(f, Module(zeros, (None, 12), tf.int32)), "the signature of its log"),
        (lambda f: save(f, Module(zeros, (None, 3, 4))), "the signature of its log"),
        (
            lambda f: save(f, Module(nonsense)),
            r"float32 of shape \(3, 3\); wanted float32 \[3, 250\]",
        ),
        (lambda f: save(f, Module(failing)), "its log_weights fail .*on purpose"),
        (lambda f: save(f, Module(lambda *a: zeros(*a) + np.nan)), "is not finite"),
        (lambda f: (f.mkdir(), (f / "saved_model.pb").write_bytes(b"\x08\x96\x01no")), "cannot be"),
        (lambda f: (f.mkdir(), (f / "saved_model.pb").touch()), "cannot be loaded as a SavedModel"),
        (lambda f: f.mkdir(), "no saved_model.pb in .*; name a SavedModel's folder"),
        (lambda f: None, "no saved_model.pb in "),
        (lambda f: f.symlink_to(f.name), "cannot be read"),
    ],
)
def test_a_folder_without_a_valid_export_is_an_error_of_one_line(make, message, hierarchical):
    folder = hierarchical.workdir.path / "damaged"
    try:
        make(folder)
        with pytest.raises(UserError, match=message) as error:
            hierarchical.by_saved_model("damaged")
        assert "\n" not in str(error.value)
    finally:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def outside(tmp_path):
    """A workdir, and next to it a folder that looks like a SavedModel."""
    workdir, model = tmp_path / "run", tmp_path / "stranger"
    workdir.mkdir()
    (model / "variables").mkdir(parents=True)
    (model / "saved_model.pb").touch()
    (model / "variables" / "variables.index").touch()
    return workdir, model


def linked_file(workdir, model, file):
    shutil.copytree(model, workdir / "model")
    (workdir / "model" / file).unlink()
    (workdir / "model" / file).symlink_to(model / file)
    return "model"


def linked_folder(workdir, model):
    (workdir / "model").mkdir()
    shutil.copy(model / "saved_model.pb", workdir / "model")
    (workdir / "model" / "variables").symlink_to(model / "variables")
    return "model"


def link(workdir, target):
    (workdir / "model").symlink_to(target)
    return "model"


@pytest.mark.parametrize(
    "place",
    [
        lambda workdir, model: str(model),
        lambda workdir, model: "../stranger",
        lambda workdir, model: f"{workdir}/../stranger",
        lambda workdir, model: link(workdir, model),
        lambda workdir, model: link(workdir, "../stranger"),
        lambda workdir, model: link(workdir, model.parent) + "/stranger",
        lambda workdir, model: linked_file(workdir, model, "saved_model.pb"),
        lambda workdir, model: linked_file(workdir, model, "variables/variables.index"),
        linked_folder,
    ],
)
def test_a_saved_model_outside_the_workdir_is_refused(place, outside):
    workdir, model = outside
    given = SavedModelConfig(place(workdir, model))
    with pytest.raises(UserError, match=r"is outside --workdir; a SavedModel is a program"):
        saved_models.find(given, workdir)


def test_a_workdir_may_itself_be_a_link(outside):
    workdir, model = outside
    shutil.copytree(model, workdir / "saved_model")
    other = workdir.with_name("link")
    other.symlink_to(workdir)
    for name in ("saved_model", f"{workdir}/saved_model", f"{other}/saved_model"):
        found = saved_models.find(SavedModelConfig(name), other)
        assert found == (workdir / "saved_model").resolve()


def test_a_trusted_saved_model_may_be_outside_the_workdir(outside):
    workdir, model = outside
    for name in (str(model), "../stranger", link(workdir, model)):
        assert saved_models.find(SavedModelConfig(name, True), workdir) == model.resolve()


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "endless folder"])
def test_a_saved_model_without_a_digest_is_refused(kind, trusted, outside):
    workdir, model = outside
    shutil.copytree(model, workdir / "model")
    strange = workdir / "model" / "strange"
    os.mkfifo(strange) if kind == "pipe" else strange.symlink_to(workdir / "model")
    with pytest.raises(UserError, match="strange is neither a file nor a folder"):
        saved_models.find(SavedModelConfig("model", trusted), workdir)


def test_the_digest_depends_on_every_byte_and_name(outside):
    _, model = outside
    digests = {saved_models.digest(model)}
    (model / "saved_model.pb").write_bytes(b"1")
    digests.add(saved_models.digest(model))
    (model / "variables" / "variables.index").write_bytes(b"1")
    digests.add(saved_models.digest(model))
    (model / "variables" / "variables.index").rename(model / "variables" / "other")
    digests.add(saved_models.digest(model))
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("asked", "mode", "strategy", "given", "message"),
    [
        (("", True), "train", "one", (), "--trust_saved_model: needs --saved_model"),
        (("m", False), "train", "one", (), "--saved_model=m: for --mode=evaluate, not"),
        (("m", True), "export", "one", (), "--saved_model=m: for --mode=evaluate, not"),
        (("m", False), "evaluate", "mirrored", (), "leave out --strategy=mirrored"),
        (("m", False), "evaluate", "one", ("estimator",), "--estimator: --saved_model=m is scored"),
        (("m", False), "evaluate", "one", ("eval_tolerance",), "--eval_tolerance: --saved_model=m"),
    ],
)
def test_flags_that_contradict_the_saved_model_are_refused(asked, mode, strategy, given, message):
    with pytest.raises(UserError, match=message):
        validation.check_saved_model(SavedModelConfig(*asked), mode, strategy, given)


def test_a_name_with_a_nul_is_refused():
    with pytest.raises(UserError, match="without a NUL"):
        validation.check_saved_model(SavedModelConfig("a\0b"), "evaluate", "one", {})


def test_no_configuration_names_or_trusts_a_saved_model():
    """A config.json may come from a stranger."""
    of_run = {field.name for field in config_lib.fields()}
    assert not of_run & {field.name for field in dataclasses.fields(SavedModelConfig)}
