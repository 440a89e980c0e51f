"""An evaluation is resumable, and its scores do not depend on the number of images."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.cli import modes
from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.evaluation import adaptive, annealing, evaluate, table
from hvi_tf.inference import image_scores
from hvi_tf.inference.methods import METHODS
from hvi_tf.inference.plans import Plan
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import npz
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training.runs import Run
from tests.oracles.analytic import LinearGaussian

PIXELS = np.random.default_rng(0).integers(0, 256, (700, 12)).astype(np.uint8)
DATA = Dataset(train=255 - PIXELS, validation=PIXELS[:50], test=PIXELS, image_shape=(3, 4, 1))


def settings(**values):
    base = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, prior_dim=2, K=2, jit_compile="off")
    return config_lib.derive(base | dict(eval_M=3, eval_K=2, eval_images=700), **values)


@pytest.fixture
def run(tmp_path):
    opened = workdirs.create_or_open(tmp_path / "run", settings())
    model = make_vae(settings(), 12)

    def score(step=1, **values):
        return evaluate.evaluate(settings(**values), model, DATA, opened, step)

    score.workdir, score.model = opened, model
    yield score
    opened.close()


def saved_scores(summary):
    with np.load(summary["scores"], allow_pickle=False) as file:
        return file["log_likelihood"][: summary["images"]]


def test_summary_is_mean_and_standard_error_over_images(run):
    summary = run()
    values = saved_scores(summary)
    assert values.shape == (700,)
    score = summary["log_likelihood"]
    assert score["mean"] == pytest.approx(values.mean(), rel=1e-6)
    assert score["standard_error"] == pytest.approx(values.std(ddof=1) / np.sqrt(700), rel=1e-4)
    stored = json.loads((run.workdir.evaluation / "test_step1_M3_K2_N700.json").read_text())
    assert stored == summary


@pytest.mark.parametrize("bound", METHODS)
def test_every_method_can_be_scored(bound, tmp_path):
    steps = 4 if METHODS[bound].refines else None
    config = settings(bound=bound, K=None, eval_images=20, eval_steps=steps)
    workdir = workdirs.create_or_open(tmp_path, config)
    summary = evaluate.evaluate(config, make_vae(config, 12), DATA, workdir, step=1)
    assert summary["log_likelihood"]["mean"] < 0
    # With an explicit q(z|x), or tau := p(zeta), there are no psi_1:K to draw.
    assert summary["K"] == (2 if METHODS[bound].draws_psi else 0)
    single = summary["elbo_start" if METHODS[bound].refines else "bound"]
    assert summary["log_likelihood"]["mean"] >= single["mean"]
    workdir.close()


@pytest.mark.parametrize("bound", ["hvm", "iwhvi", "diwhvi", "diwhvi-mixture"])
@pytest.mark.parametrize(
    "prior", ["normal", pytest.param("hierarchical", marks=[pytest.mark.long])]
)
def test_every_method_with_a_tau_can_be_scored_by_the_mixture(bound, prior, tmp_path):
    own = dict(bound=bound, prior=prior, K=None, eval_images=100, eval_M=20, eval_K=400)
    if prior == "hierarchical":
        own["eval_L"] = 400
    configs = [settings(**own, estimator=name) for name in ("diwhvi", "diwhvi-mixture")]
    workdir = workdirs.create_or_open(tmp_path, settings(**own))
    model = make_vae(configs[0], 12)
    scores = [evaluate.evaluate(config, model, DATA, workdir, step=1) for config in configs]
    for name in ("log_likelihood", "bound"):
        one, two = (score[name]["mean"] for score in scores)
        assert 0.0 < abs(one - two) < 1.0  # the networks are not trained
    workdir.close()


def test_any_model_can_be_refined_and_scored(run, tmp_path):
    """A model of iwhvi: by BSVI, by SVI, and by DIWHVI with up to five times the draws."""
    few = dict(eval_images=120, eval_steps=6, eval_M=2, eval_svi_learning_rate=0.1)
    bsvi, svi = run(estimator="bsvi", **few), run(estimator="svi", **few)
    assert bsvi["log_likelihood"]["mean"] > bsvi["elbo_start"]["mean"]
    for name in ("elbo", "kl", "reconstruction"):
        assert bsvi[name] == svi[name]
    total = bsvi["elbo"]["mean"] + bsvi["kl"]["mean"] + bsvi["reconstruction"]["mean"]
    assert total == pytest.approx(0.0, abs=1e-3)
    assert "log_likelihood" not in svi
    rows = dict(table.score_rows(bsvi))
    assert {"ELBO* (SVI-6)", "KL*", "Reconstruction*"} <= set(rows)

    multiples = run(estimator="diwhvi", eval_images=120, eval_steps=6)
    means = [multiples[f"log_likelihood_{6 * j}"]["mean"] for j in range(1, 6)]
    assert np.all(np.diff(means) > 0)
    one = run(estimator="diwhvi", eval_images=120, eval_M=30)["log_likelihood"]["mean"]
    assert means[-1] == pytest.approx(one, abs=0.1)
    assert len(table.score_rows(multiples)) == 5


@pytest.mark.long
def test_an_interrupted_refinement_resumes(run, interrupted):
    few = dict(estimator="bsvi", eval_images=250, eval_steps=3)
    unbroken = run(**few)
    whole = saved_scores(unbroken).copy()
    next(run.workdir.evaluation.glob("test_step1_bsvi*.npz")).unlink()
    with interrupted():
        run(**few)
    np.testing.assert_array_equal(saved_scores(run(**few)), whole)


def test_a_trained_model_can_be_scored_by_other_estimators(run):
    """A model of iwhvi, with the estimators of figure 2 (right); each has its own files."""
    names = ("auto", "diwhvi", "diwhvi-mixture", "sivi", "sivi-equicomp", "sivi-equisample")
    draws = dict.fromkeys(names, 10)
    values = {
        name: run(estimator=name, eval_M=20, eval_K=K, eval_images=100) for name, K in draws.items()
    }
    values["hvm"] = run(estimator="hvm", eval_M=20, eval_images=100)
    assert values["auto"]["log_likelihood"] == values["diwhvi"]["log_likelihood"]
    assert values["hvm"]["K"] == 0
    assert values["hvm"]["log_likelihood"]["mean"] < values["auto"]["log_likelihood"]["mean"]
    assert len({v["scores"] for v in values.values()}) == len(values)
    assert values["sivi"]["kl_mixing_posterior"]["mean"] > 0
    means = [v["log_likelihood"]["mean"] for name, v in values.items() if name != "hvm"]
    assert np.ptp(means) < 0.5


@pytest.mark.long
def test_a_mixture_of_any_size_agrees_with_diwhvi(run):
    """Each mixture size and each defensive share has its own file."""
    counts = dict(eval_M=40, eval_K=10, eval_images=100)
    own = run(estimator="diwhvi", **counts)
    changes = ({}, dict(eval_mixture_size=7), dict(eval_mixture_size=1), dict(eval_defensive=0.2))
    mixtures = [run(estimator="diwhvi-mixture", **counts, **change) for change in changes]
    assert len({summary["scores"] for summary in mixtures}) == len(mixtures)
    for summary in mixtures:
        difference = summary["log_likelihood"]["mean"] - own["log_likelihood"]["mean"]
        assert 0.0 < abs(difference) < 0.2
        kl = summary["kl_tau_mixing"]["mean"]  # of each tau, whatever the mixture
        assert kl == pytest.approx(own["kl_tau_mixing"]["mean"], abs=0.05)
    assert mixtures[2]["bound"]["mean"] == pytest.approx(own["bound"]["mean"], abs=0.05)
    assert abs(mixtures[0]["bound"]["mean"] - own["bound"]["mean"]) > 0.1


@pytest.mark.parametrize(
    ("estimator", "shown"), [("auto", "DIWHVI"), ("diwhvi-mixture", "DIWHVI-MIXTURE")]
)
def test_a_pilot_chooses_the_draws_of_each_image(run, estimator, shown):
    options = dict(eval_M=400, eval_tolerance=0.1, eval_images=30, estimator=estimator)
    summary = run(**options)
    with np.load(summary["scores"], allow_pickle=False) as file:
        draws, values = file["draws"], file["log_likelihood"]
    assert set(draws) <= {100, 200, 400}
    assert len(set(draws)) > 1
    pilots = run.workdir.evaluation.glob("*_pilot.npz")
    (pilot,) = (p for p in pilots if ("mixture" in p.name) == ("mixture" in estimator))
    with np.load(pilot, allow_pickle=False) as file:  # the same number of draws
        same = draws == 100
        assert np.all(file["log_likelihood"][:30][same] != values[same])
    assert summary["draws"]["mean"] == pytest.approx(draws.mean())
    assert summary["images_at_most_draws"] == np.sum(draws == 400)
    assert run(**options)["log_likelihood"] == summary["log_likelihood"]
    stricter = run(**options | dict(eval_tolerance=0.05))
    assert stricter["draws"]["mean"] > summary["draws"]["mean"]
    fewer = run(**options | dict(eval_images=10))
    np.testing.assert_array_equal(saved_scores(fewer), values[:10])
    label = dict(table.score_rows(summary))
    assert f"test log-likelihood ({shown}, M<=400, K=2)" in label
    assert "draws of z, for +- 0.1 nats an image" in label
    assert any("took all --eval_M=400 draws" in text for text in table.warnings(summary))


def test_the_smallest_sufficient_level_is_chosen():
    assert adaptive.levels(700) == [100, 200, 400, 700]
    assert adaptive.levels(30) == [30]
    # CV^2 of 0, 1 and 99: standard errors of 0.1 take 0, 100 and 9,900 draws.
    ess = np.array([100.0, 50.0, 49.0, 1.0])
    np.testing.assert_array_equal(adaptive.choose(ess, 0.1, 700), [100, 100, 200, 700])
    np.testing.assert_array_equal(adaptive.choose(ess, 0.01, 700), [100, 700, 700, 700])


def test_a_pilot_is_never_scored(seed):
    """The estimate of p(x) is unbiased; it is biased if scores include the pilot's draws."""
    lg = LinearGaussian()
    x = tf.constant(np.repeat(lg.observations(1), 40_000, axis=0))
    row, exact = METHODS["iwae"], lg.log_evidence(x[:1])

    def score(M, seed):
        plan = Plan(M, 0, 1, len(x), M, 0, 1)
        return image_scores.make_scorer(lg.model, row, plan)(x, seed)

    pilot = score(4, randomness.fold(seed, randomness.Purpose.PILOT))
    # As `adaptive.choose`, with a pilot so short that its estimate is mostly noise.
    more = 4 / pilot.ess_outer.numpy() - 1.0 > 0.6
    few, many = (
        score(M, randomness.fold(seed, randomness.Purpose.EVALUATE)).log_likelihood for M in (4, 40)
    )
    ratios = np.exp(np.where(more, many, few) - exact)
    assert 0.2 < more.mean() < 0.8
    assert abs(ratios.mean() - 1.0) < 4.8 * ratios.std() / np.sqrt(len(ratios))
    stopped = np.exp(np.where(more, many, pilot.log_likelihood) - exact)  # if it looks good
    assert abs(stopped.mean() - 1.0) > 4.8 * stopped.std() / np.sqrt(len(stopped))


def test_annealing_brackets_log_p_and_stored_scores_are_reused(run, monkeypatch):
    settings = dict(estimator="ais", ais_chains=8, ais_steps=20, ais_leapfrog_steps=3)
    summary = run(**settings, eval_images=64)
    simulated = summary["simulated"]
    assert summary["images"] == summary["simulated_images"] == 64
    assert 0.4 < summary["acceptance"]["mean"] <= 1
    assert 1 <= summary["ess_chains"]["mean"] <= 8
    assert abs(simulated["gap"]["mean"]) < 0.3  # because this posterior is close to the prior
    stored = json.loads(
        (run.workdir.evaluation / "test_step1_ais_C8_T20_leapfrog3_N64.json").read_text()
    )
    assert stored == summary
    by_diwhvi = run(eval_M=500, eval_K=10, eval_images=64)["log_likelihood"]["mean"]
    assert abs(summary["log_likelihood"]["mean"] - by_diwhvi) < 0.2
    monkeypatch.setattr(annealing, "anneal_images", None)  # must not be called
    assert run(**settings, eval_images=64) == summary


def test_a_collapsed_tau_is_a_warning(run):
    """At initial weights, the gate keeps tau at q(psi|x); without a gate it differs."""
    assert not table.warnings(run(eval_images=50))
    gated = make_vae(settings(tau_gate_bias=-12.0), 12)
    scores = evaluate.evaluate(
        settings(tau_gate_bias=-12.0, eval_images=50), gated, DATA, run.workdir, 2
    )
    (warning,) = table.warnings(scores)
    assert "tau has collapsed to q(psi|x): KL(tau||q(psi|x)) is 0.000 nats" in warning


def test_one_image_has_no_standard_error(run):
    summary = run(eval_images=1)
    assert summary["log_likelihood"]["standard_error"] is None


def test_scores_do_not_depend_on_how_many_images_are_scored(run):
    few = saved_scores(run(eval_images=100)).copy()
    many = saved_scores(run(eval_images=700))
    np.testing.assert_array_equal(few, many[:100])


@pytest.mark.parametrize("estimator", ["auto", "diwhvi-mixture"])
def test_an_interrupted_and_resumed_evaluation_equals_an_unbroken_one(run, interrupted, estimator):
    run = functools.partial(run, estimator=estimator)
    summary = run()
    unbroken, path = saved_scores(summary).copy(), pathlib.Path(summary["scores"])
    path.unlink()
    with interrupted():
        run()
    arrays = npz.read_arrays(path)
    assert 0 < len(arrays["log_likelihood"]) < 700
    arrays["log_likelihood"][0] = unbroken[0] = -1234.5  # must not be scored again
    npz.write_arrays(path, arrays)
    np.testing.assert_array_equal(saved_scores(run()), unbroken)


def test_an_interruption_in_the_last_batch_also_exits(run, interrupted):
    """The interruption exits because another job or command may follow."""
    with interrupted():
        run(eval_images=1)
    assert run(eval_images=1)["images"] == 1


@pytest.mark.parametrize("when", ["before", "while"])
def test_an_export_after_the_workdir_was_moved_is_an_error(run, when, monkeypatch):
    path, save = run.workdir.path, tf.saved_model.save

    def save_elsewhere(*arguments, **keywords):
        if when == "while":
            path.rename(path.with_name("elsewhere"))
        save(*arguments, **keywords)

    monkeypatch.setattr(tf.saved_model, "save", save_elsewhere)
    if when == "before":
        path.rename(path.with_name("elsewhere"))
    with pytest.raises(UserError, match=r"was removed|was replaced"):
        modes._export(Run(settings(), run.model, DATA, run.workdir, 1, None))
    assert run.workdir.saved_model.exists() == (when == "while")


def test_scores_are_not_written_after_the_workdir_was_moved(run):
    elsewhere = run.workdir.path.rename(run.workdir.path.with_name("elsewhere"))
    run.workdir.evaluation.mkdir(parents=True)
    with pytest.raises(UserError, match="was replaced while it was in use"):
        run(eval_images=10)
    assert not list(run.workdir.evaluation.iterdir())
    shutil.rmtree(run.workdir.path)
    elsewhere.rename(run.workdir.path)
    assert run(eval_images=10)["images"] == 10


def test_another_checkpoint_is_scored_again(run):
    summary = run(step=1)
    first = saved_scores(summary).copy()
    run.model.decoder.later_layers[-1].bias.assign(np.full(12, 1.0))
    assert not np.allclose(saved_scores(run(step=2)), first)
    np.testing.assert_array_equal(saved_scores(summary), first)  # the first ones are kept


@pytest.mark.parametrize(
    ("common", "changes"),
    [
        (dict(estimator="bsvi", eval_steps=2), dict(eval_svi_learning_rate=0.5)),
        (dict(estimator="ais", ais_chains=2, ais_steps=2), dict(step=2)),
        (dict(eval_M=2), dict(eval_images=3)),
    ],
)
def test_evaluations_of_other_settings_keep_their_files(run, common, changes):
    common |= dict(eval_images=2)
    run(**common)
    before = {p: p.read_bytes() for p in run.workdir.evaluation.glob("*.json")}
    run(**{**common, **changes})
    assert {p: p.read_bytes() for p in before} == before
    assert len(list(run.workdir.evaluation.glob("*.json"))) == len(before) + 1


def test_replaced_scores_are_a_warning(run, capsys):
    run(eval_images=2)
    path = run.workdir.evaluation / "test_step1_M3_K2.npz"
    npz.write_arrays(path, npz.read_arrays(path) | {"identity": "{}"})
    run(eval_images=2)
    assert "holds scores of other settings" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["truncated", "empty", "another format"])
def test_a_damaged_score_file_is_replaced(damage, run, capsys):
    first = saved_scores(run()).copy()
    path = run.workdir.evaluation / "test_step1_M3_K2.npz"
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes({"truncated": half, "empty": b"", "another format": b"not a zip"}[damage])
    np.testing.assert_array_equal(saved_scores(run()), first)
    assert "is damaged" in capsys.readouterr().out


def test_a_score_that_is_not_finite_is_an_error(run):
    run.model.decoder.later_layers[-1].bias.assign(np.full(12, np.nan))
    with pytest.raises(UserError, match="image 0: log_likelihood is not finite"):
        run()
