"""Prints docs/verification.md: every estimator next to its closed form.

`python -m tests.oracles.verification > docs/verification.md` takes a few minutes on two cores.
The tests check the results of the same functions.
"""

import itertools
import os
import platform
import subprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from hvi_tf.evaluation import ais
from hvi_tf.inference.methods import METHODS
from tests.oracles import (
    annealing,
    closed_forms,
    divergences,
    enumerated,
    hierarchies,
    refinement,
    unbiased,
)
from tests.oracles.closed_forms import HIERARCHICAL
from tests.oracles.special_cases import SPECIAL_CASES
from tests.oracles.statistics import mean_and_error, z_of_difference, z_of_mean

SEED = 20190513  # of conftest.py
COUNTS = (1, 5, 25, 125)


def table(header, rows):
    def line(cells):
        print("| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |")

    line(header)
    print("|" + "---|" * len(header))
    for row in rows:
        line(row)
    print()


def plus_minus(values):
    mean, error = mean_and_error(np.asarray(values))
    return f"{mean:.4f} ± {error:.4f}"


def z(value):
    return f"{value:+.1f}"


def prior_of(lg):
    return "hierarchical" if lg is HIERARCHICAL else "explicit"


def header():
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print("# Verification\n")
    print(
        "Printed by `python -m tests.oracles.verification`; the tests assert the same\n"
        "numbers. All in nats and float64. `±` is one standard error, `z` a difference in\n"
        "standard errors; of\n"
        "paired differences (the same draws) where one says so. Every oracle is NumPy and\n"
        "SciPy only.\n"
    )
    print(
        f"Commit {commit or 'unknown'}, Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, NumPy {np.__version__}, {platform.machine()} with "
        f"{os.cpu_count()} CPUs, seed {SEED}.\n"
    )


def rows_of_methods():
    print("## 1. Every row of the table on linear-Gaussian models\n")
    print(
        "log p(x) is exact. `same draws` is the largest difference from the naive formula with\n"
        "SciPy's densities on the package's draws; `oracle` draws for itself (20,000 each).\n"
        "K=4, M=3, L=3 where the row leaves them free; tau and rho are off.\n"
    )
    rows = []
    for name, lg in closed_forms.CASES:
        found, expected = closed_forms.on_the_same_draws(name, lg, SEED)
        bound, oracle, truth = closed_forms.on_independent_draws(name, lg, SEED)
        rows.append(
            [
                *(f"`{name}`", prior_of(lg), f"{np.abs(found - expected).max():.0e}"),
                *(plus_minus(bound), plus_minus(oracle)),
                z(z_of_difference(bound, oracle)),
                *(f"{truth:.4f}", z(z_of_mean(truth - bound))),
            ]
        )
    columns = ["row", "prior", "same draws", "bound", "oracle", "z", "log p(x)", "z below it"]
    table(columns, rows)
    print("### Monotone in K, L and M\n")
    print("Bounds on nested subsets of the same 4,000 draws, and the z of each paired step.\n")
    rows = []
    for name, lg, axis in closed_forms.LADDERS:
        values = closed_forms.ladder(name, lg, axis, SEED)
        steps = ", ".join(map(str, closed_forms.STEPS[axis]))
        rows.append(
            [
                *(f"`{name}`", prior_of(lg), f"{axis} = {steps}"),
                ", ".join(f"{v.mean():.4f}" for v in values),
                ", ".join(z(z_of_mean(b - a)) for a, b in itertools.pairwise(values)),
            ]
        )
    table(["row", "prior", "axis", "bounds", "z of steps"], rows)


def discrete():
    print("## 2. The discrete toy: exact expectations over every possible draw\n")
    rows = []
    for name, hierarchical, axis in enumerated.discrete_cases():
        values = enumerated.discrete_values(name, hierarchical, axis)
        log_evidence = enumerated.TOYS[hierarchical].log_evidence
        worst = max(abs(v[0] / np.exp(log_evidence) - 1) for v in values)
        steps = "-"
        if axis:
            steps = f"{axis} = " + ", ".join(map(str, enumerated.DISCRETE_STEPS[axis][1]))
        rows.append(
            [
                *(f"`{name}`", "hierarchical" if hierarchical else "explicit", steps),
                ", ".join(f"{v[1]:.6f}" for v in values),
                *(f"{log_evidence:.6f}", f"{worst:.0e}"),
            ]
        )
    columns = ["row", "prior", "axis", "E bound", "log p(x)", "largest |E exp(bound) / p(x) - 1|"]
    table(columns, rows)
    print("log q(z) from both sides, KL and mutual information, likewise enumerated:\n")
    rungs = ["L_1", "L_2", "L_4", "log q(z)", "U_4", "U_2", "U_1", "U_0"]
    table(rungs, [[f"{v:.6f}" for v in enumerated.discrete_marginal_ladder()]])
    rows = []
    for K, L in ((1, 1), (3, 2)):
        kl, information = enumerated.discrete_kl(K, L), enumerated.discrete_information(K)
        found = enumerated.discrete_estimates(K, L, SEED)
        names = ("`kl_lower`", "`kl_upper`", "information, lower", "information, upper")
        exact = (kl[0], kl[2], information[0], information[2])
        truth = (kl[1], kl[1], information[1], information[1])
        for name, values, expected, t in zip(names, found, exact, truth, strict=True):
            deviation = z_of_mean(values, expected)
            rows.append(
                [name, K, L, plus_minus(values), f"{expected:.5f}", z(deviation), f"{t:.5f}"]
            )
    table(["function", "K", "L", "100,000 draws", "its exact mean", "z", "what it bounds"], rows)


def sandwiches():
    print("## 3. log q(z), KL and mutual information from both sides\n")
    print("Means less the exact log q(z), nested subsets of the same 20,000 draws:\n")
    rows = []
    for name in hierarchies.CASES:
        ladder = hierarchies.marginal_ladder(name, SEED)
        truth = ladder[hierarchies.RUNGS.index("log q(z)")]
        smallest = min(z_of_mean(b - a) for a, b in itertools.pairwise(ladder))
        rows.append([name, *(f"{np.mean(v - truth):+.4f}" for v in ladder), z(smallest)])
    table(["model", *hierarchies.RUNGS, "smallest z of a step"], rows)
    print("The same at K=3 against the oracle's own draws (less the exact log q(z)):\n")
    rows = []
    for name in hierarchies.CASES:
        upper, own_upper, lower, own_lower = hierarchies.marginal_means(name, 3, SEED)
        for label, found, expected in (("U_3", upper, own_upper), ("L_3", lower, own_lower)):
            deviation = z_of_difference(found, expected)
            rows.append([name, label, plus_minus(found), plus_minus(expected), z(deviation)])
    table(["model", "bound", "package", "oracle", "z"], rows)
    print("KL(q || p), with exact posterior draws in `kl_lower`:\n")
    rows = []
    for name, pair in divergences.PAIRS.items():
        ladder = divergences.kl_ladder(name, SEED)
        oracle = divergences.kl_oracle(name, SEED)
        deviations = itertools.starmap(z_of_difference, zip(ladder, oracle, strict=True))
        rows.append(
            [
                *(name, plus_minus(ladder[0]), plus_minus(ladder[1]), f"{pair.kl:.4f}"),
                *(plus_minus(ladder[2]), plus_minus(ladder[3]), ", ".join(map(z, deviations))),
            ]
        )
    columns = ["q, p", "lower (1, 0)", "lower (8, 8)", "exact", "upper (8, 8)", "upper (0, 1)"]
    table([*columns, "z of these and the oracle"], rows)
    print("(K, L) in brackets. `kl_lower` (4, 4) by `hmc_posterior` and by exact draws:\n")
    rows = []
    for name in divergences.HMC_PAIRS:
        by_hmc, exact = divergences.kl_lower_by_hmc(name, SEED)
        row = [name, plus_minus(by_hmc), plus_minus(exact), z(z_of_mean(by_hmc - exact))]
        rows.append([*row, f"{divergences.PAIRS[name].kl:.4f}"])
    table(["q, p", "by HMC", "by exact draws", "z, paired", "exact KL"], rows)
    print("Mutual information I(z; psi):\n")
    rows = []
    for name, case in hierarchies.CASES.items():
        ladder = hierarchies.information_ladder(name, SEED)
        means = [plus_minus(v) for v in ladder]
        rows.append([name, *means[:2], f"{case.information:.4f}", *means[2:]])
    columns = ["model", "lower, K=1", "lower, K=8", "exact", "upper, K=8", "upper, K=1"]
    table(columns, rows)
    print(
        "With the true tau and rho every one of these is exact for each draw of z, to 1e-5 or\n"
        "better (asserted in `tests/inference/test_sandwich.py` and\n"
        "`tests/inference/test_closed_forms.py`).\n"
    )


def special_cases():
    print("## 4. Special cases on the same draws\n")
    rows = []
    for name, compute in SPECIAL_CASES.items():
        found, expected = compute()
        rows.append([name, f"{np.abs(found - expected).max():.0e}"])
    table(["identity", "largest difference"], rows)


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
        "z-scores of paired differences from autodiff, 4,000 replicates or those named, with the\n"
        "same draws: unbiased ones have an rms of about 1 (parameters are correlated).\n"
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
    columns = ["estimator", "of", "row", "settings", "parameters", "largest abs z", "rms z"]
    table(columns, rows)
    print("Biased ones, seen to be biased:\n")
    rows = []
    for arguments in unbiased.BIASED_CASES:
        rows += gradient_rows(*arguments)
    table(columns, rows)


def signal_to_noise():
    print("### Signal-to-noise ratios\n")
    print(
        "Mean over parameters of |mean| / standard deviation of one gradient, 4,000 replicates.\n"
        "A larger ratio of a biased estimator (`dreg-biased`; `stl` for M > 1) is that of\n"
        "another mean. For `iwae` the weights have a variance here but no fourth moment, so\n"
        "`iwae-dreg`, whose coefficients are w^2, gains on autodiff with M but does not improve.\n"
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
    print("On draws: a 2-dimensional Laplace with a Gamma tau that is off, 40,000 draws:\n")
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
        "A linear-Gaussian decoder. Forward: 3 observations, 4,000 chains, a bound from every 4;\n"
        "reverse: 4 chains for each of 2,000 simulated observations. Gaps to the exact log p(x);\n"
        "acceptance averaged over chains and temperatures.\n"
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


def buffered():
    print("## 8. Buffered stochastic variational inference\n")
    print(
        "A linear-Gaussian model, 3 observations, 2,000 draws of each, rate 0.1; around a\n"
        "hierarchical q with K=2 and a tau that is off. Gaps to the exact log p(x), nats; z of\n"
        "E exp(bound) / p(x) - 1, the largest of the 3.\n"
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


GAPS = ("log_likelihood", "elbo", "elbo_start")


def main():
    header()
    print(f"Rows: {', '.join(f'`{name}`' for name in METHODS)}.\n")
    rows_of_methods()
    discrete()
    sandwiches()
    special_cases()
    gradients()
    signal_to_noise()
    jackknife()
    annealed()
    buffered()


if __name__ == "__main__":
    main()
