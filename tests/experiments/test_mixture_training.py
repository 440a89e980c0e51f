"""Training by the mixture: the compared methods and the claims."""

import pytest

from hvi_tf.experiments.beyond import mixture_training
from hvi_tf.experiments.harness.experiment import Settings
from hvi_tf.experiments.harness.rows import row

OWN, MIXTURE = mixture_training.OWN, mixture_training.MIXTURE
QUICK = mixture_training.PRESETS["quick"]


def settings_of(prefix: str) -> list[Settings]:
    return [c.settings for c in mixture_training.cells(QUICK) if c.name.startswith(prefix)]


def test_trainings_draw_the_same_total_of_psi():
    drawn = {
        (s["method"], s["K"] * (s["M"] if s["method"] == OWN else 1)) for s in settings_of("train")
    }
    M, K = QUICK["training_M"], QUICK["K"]
    assert drawn == {(OWN, M * K), (MIXTURE, M * K)}
    assert len(settings_of("train")) == 2 * QUICK["seeds"]


def test_times_are_of_every_contestant_in_turn(monkeypatch):
    measured = []

    def in_turn(contestants, count, seconds):
        measured.extend(contestants)
        return {name: [2.0, 3.0] if name.startswith(OWN) else [1.0, 3.0] for name in contestants}

    monkeypatch.setattr(mixture_training, "Step", lambda cell: cell.config)  # validates it
    monkeypatch.setattr(mixture_training.rounds, "in_turn", in_turn)
    rows = mixture_training._times(dict(M=[5, 10], K=3, rounds=2))
    assert len(measured) == 6
    ratios = {(r["method"], r["M"], r["K"]): r for r in rows if r["quantity"] == "time_ratio"}
    assert ratios[MIXTURE, 10, 30]["value"] == pytest.approx(0.75)
    assert (ratios[MIXTURE, 10, 30]["low"], ratios[MIXTURE, 10, 30]["high"]) == (0.5, 1.0)
    assert ratios[OWN, 5, 3]["value"] == 1.0


def claims(times: tuple[float, float, float], gains: list[float]) -> list[bool | None]:
    ratio, low, high = times
    rows = [row(MIXTURE, "time_ratio", ratio, M=5, K=15, dataset="noise", low=low, high=high)]
    for seed, gain in enumerate(gains):
        where = dict(dataset="mnist", M=5, seed=seed)
        rows.append(row(OWN, "log_likelihood", -90.0 + seed, K=3, **where))
        rows.append(row(MIXTURE, "log_likelihood", -90.0 + seed + gain, K=15, **where))
    return [claim.holds for claim in mixture_training.claims(rows)]


def test_claims_follow_the_numbers():
    assert claims((0.5, 0.4, 0.9), [1.0, 1.1, 0.9]) == [True, True]
    assert claims((1.5, 1.2, 1.9), [-1.0, -1.1, -0.9]) == [False, False]
    assert claims((0.9, 0.8, 1.1), [1.0, -1.1, 0.3]) == [None, None]
