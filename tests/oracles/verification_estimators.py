"""The sections of docs/verification.md on gradients, the jackknife, annealing and refinement."""

import itertools

import numpy as np
import tensorflow as tf

from hvi_tf.evaluation import ais
from tests.oracles import annealing, enumerated, hierarchies, refinement, unbiased
from tests.oracles.statistics import z_of_mean
from tests.oracles.tables import SEED, plus_minus, table

COUNTS = (1, 5, 25, 125)


def gradient_rows(estimator, method, case, group):
    """Returns one line of the table of z-scores, or none where the group is empty."""
    found = unbiased.replicate_gradients(["reparameterized", estimator], method, seed=SEED, **case)
    other, plain = getattr(found[estimator], group), getattr(found["reparameterized"], group)
    if not plain.size:
        return []
    scores = unbiased.z_scores(other - plain)
    settings = ", ".join(f"{key}={value}" for key, value in case.items())
    if not scores.size:
        return [
            [f"`{estimator}`", group, f"`{method}`", settings, plain.shape[1], "equal", "equal"]
        ]
    rms, largest = np.sqrt(np.mean(scores**2)), np.abs(scores).max()
    row = [f"`{estimator}`", group, f"`{method}`", settings, plain.shape[1]]
    return [[*row, f"{largest:.1f}", f"{rms:.1f}"]]


def gradients():
    print("## 5. Gradient estimators\n")
    print(
        "z-scores of paired differences from autodiff, by the same draws, with 4,000\n"
        "replicates unless the settings name another number. Unbiased estimators have an rms\n"
        "of about 1 (parameters are correlated). `equal` means that the two agree draw by\n"
        "draw.\n"
    )
    rows = []
    for method, case in unbiased.DREG_CASES:
        rows += gradient_rows("dreg", method, case, "eta")
    for method, case in unbiased.GDREG_CASES:
        for group in ("phi", "eta", "rho"):
            rows += gradient_rows("gdreg", method, case, group)
    for prior, M in itertools.product((False, True), (1, 4)):
        for group in ("phi", "rho"):
            rows += gradient_rows("iwae-dreg", "iwae", dict(M=M, L=3, prior=prior), group)
    for method, case in unbiased.STL_CASES:
        rows += gradient_rows("stl", method, case, "phi")
    columns = ["estimator", "of", "method", "settings", "parameters", "largest abs z", "rms z"]
    table(columns, rows)
    print("Estimators with a known bias, which the differences show:\n")
    rows = []
    for arguments in unbiased.BIASED_CASES:
        rows += gradient_rows(*arguments)
    table(columns, rows)


def signal_to_noise():
    print("### Signal-to-noise ratios\n")
    print(
        "Mean over parameters of |mean| / standard deviation of one gradient, 4,000\n"
        "replicates. A biased estimator (`dreg-biased`; `stl` for M > 1) has the ratio of\n"
        "another mean. The weights of `iwae` have a variance here but no fourth moment. So\n"
        "`iwae-dreg`, whose coefficients are w^2, gains on autodiff as M grows, but its own\n"
        "ratio does not improve.\n"
    )
    for method, symbol, group, estimators in (
        ("iwhvi", "K", "eta", ("reparameterized", "dreg", "dreg-biased", "gdreg")),
        ("iwhvi", "K", "phi", ("reparameterized", "stl", "gdreg")),
        ("iwae", "M", "phi", ("reparameterized", "stl", "iwae-dreg")),
        ("vae", "L", "rho", ("reparameterized", "iwae-dreg")),
    ):
        prior = {"prior": True} if symbol == "L" else {}
        values = [
            unbiased.snr(method, estimators, group, SEED, **{symbol: count}, **prior)
            for count in COUNTS
        ]
        header = [f"`{method}`, {group}", *(f"{symbol}={count}" for count in COUNTS)]
        columns = zip(*values, strict=True)
        table(
            header,
            [
                [f"`{e}`", *(f"{v:.3f}" for v in row)]
                for e, row in zip(estimators, columns, strict=True)
            ],
        )


def slopes(bias, counts):
    """Returns the slopes of log |bias| in log(K + 1), between neighbors."""
    return ", ".join(
        f"{np.log(abs(bias[a] / bias[b])) / np.log((b + 1) / (a + 1)):.2f}"
        for a, b in itertools.pairwise(counts)
    )


def jackknife():
    print("## 6. The jackknife\n")
    print("Exact bias on a discrete toy, and local slopes (the theory: J + 1 for large K):\n")
    counts = (2, 4, 8)
    bias = {K: enumerated.exact_bias(K, (0, 1, 2)) for K in (*counts, 12)}
    rows = [
        [
            *(J, *(f"{bias[K][J]:.3e}" for K in (*counts, 12))),
            slopes({K: b[J] for K, b in bias.items()}, (*counts, 12)),
        ]
        for J in range(3)
    ]
    table(["J", *(f"K={K}" for K in (*counts, 12)), "slopes in K + 1"], rows)
    print("A 2-dimensional Laplace with a Gamma tau that is not the true inverse, 40,000 draws:\n")
    errors = {K: hierarchies.jackknife_errors(K, SEED) for K in counts}
    rows = [[J, *(plus_minus(errors[K][J]) for K in counts)] for J in range(3)]
    table(["J", *(f"K={K}" for K in counts)], rows)


def annealing_gaps(num_steps):
    """Returns both results, after each its gap to log p(x): `[n, B]` forward, `[n]` reverse."""
    run = annealing.compiled(ais.forward, annealing.target_of(annealing.X), num_steps)
    start = annealing.normal([SEED, 1], 4_000, 3, 2)
    forward = run([start], tf.constant([SEED, num_steps]))
    values = annealing.bounds_of_runs(forward.log_weights, chains=4)
    x, draws = annealing.posterior_draws([SEED, 1], observations=2_000, chains=4)
    run = annealing.compiled(ais.reverse, annealing.target_of(x), num_steps)
    reverse = run([draws], tf.constant([SEED, num_steps]))
    exact = annealing.LG.log_evidence
    below, above = exact(annealing.X) - values.numpy(), reverse.log_evidence.numpy() - exact(x)
    return forward, below, reverse, above


def annealed():
    print("## 7. Annealed importance sampling\n")
    print(
        "A linear-Gaussian decoder. Forward: 3 observations and 4,000 chains, a bound from\n"
        "every 4. Reverse: 4 chains for each of 2,000 simulated observations. The table has\n"
        "gaps to the exact log p(x), and acceptance rates averaged over chains and\n"
        "temperatures.\n"
    )
    rows = []
    for num_steps in (5, 15, 50):
        forward, below, reverse, above = annealing_gaps(num_steps)
        rows.append(
            [
                *(num_steps, ", ".join(plus_minus(gap) for gap in below.T)),
                f"{np.mean(forward.acceptance):.2f}",
                *(plus_minus(above), f"{np.mean(reverse.acceptance):.2f}"),
            ]
        )
    columns = ["temperatures", "log p(x) - forward, for each x", "acceptance"]
    table([*columns, "reverse - log p(x)", "acceptance"], rows)


GAPS = ("log_likelihood", "elbo", "elbo_start")


def buffered():
    print("## 8. Buffered stochastic variational inference\n")
    print(
        "A linear-Gaussian model, 3 observations, 2,000 draws of each, rate 0.1. The\n"
        "hierarchical q has K=2 and a tau that is not the true inverse. The table has gaps to\n"
        "the exact log p(x), nats, and the largest of the 3 z-scores of E exp(bound) / p(x) -\n"
        "1.\n"
    )
    rows = []
    for hierarchical, k in itertools.product((False, True), (1, 3, 9, 27)):
        scores, exact = refinement.replicated_scores(SEED, hierarchical, steps=k)
        unbiased = z_of_mean(np.exp(scores["log_likelihood"] - exact) - 1.0)
        gaps = (plus_minus((exact - scores[n]).mean(axis=1)) for n in GAPS)
        kind = "hierarchical" if hierarchical else "explicit"
        rows.append([kind, k, *gaps, f"{np.abs(unbiased).max():.1f}"])
    columns = ["log p(x) - BSVI-k", "log p(x) - ELBO after k", "log p(x) - ELBO at lambda_0"]
    table(["q(z given x)", "k", *columns, "z"], rows)
    bound, elbo, exact = refinement.theorem_2()
    print(
        f"Theorem 2, enumerated: bound {bound:.4f} < ELBO of the resampled z {elbo:.4f} <= "
        f"log p(x) {exact:.4f}.\n"
    )
    worst = (
        np.abs(z_of_mean(refinement.resampling_errors(SEED, prior))).max()
        for prior in (False, True)
    )
    print(
        "Theta's gradient from one resampled draw against that from all, largest |z|: "
        + ", ".join(f"{value:.1f}" for value in worst)
        + " (explicit, hierarchical prior).\n"
    )
    gains, pi = refinement.learned_gains(SEED)
    shown = ", ".join(f"{p:.3f}" for p in pi)
    print(f"Learned pi ({shown}) against uniform on fresh draws: +{plus_minus(gains)} nats.\n")
