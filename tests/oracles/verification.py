"""Prints docs/verification.md, which compares every estimator with a closed form.

`python -m tests.oracles.verification > docs/verification.md`, a few minutes on two cores. The
numbers come from the functions whose results the tests check.
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
from tests.bounds import test_jackknife
from tests.evaluation import test_ais
from tests.inference import (
    test_closed_forms,
    test_gradients,
    test_hierarchy,
    test_sampling,
    test_svi,
)
from tests.inference.test_closed_forms import HIERARCHICAL, mean_and_error, z_of_mean

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


def parameters_of(test):
    """Returns the parameters of a parametrized test."""
    (mark,) = [m for m in test.pytestmark if m.name == "parametrize"]
    return mark.args[1]


def header():
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    print("# Verification\n")
    print(
        "Printed by `python -m tests.oracles.verification`. The tests call the same functions\n"
        "with the same seed. They assert identities to rounding, and that a difference which\n"
        "theory puts at 0 is within 5 standard errors. All values are in nats and float64.\n"
        "`±` is one standard error, and `z` a difference in standard errors (of paired\n"
        "differences, by the same draws, if a text states it). Every oracle uses NumPy and\n"
        "SciPy only.\n"
    )
    print(
        f"Commit {commit or 'unknown'}, Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, NumPy {np.__version__}, {platform.machine()} with "
        f"{os.cpu_count()} CPUs, seed {SEED}.\n"
    )


def rows_of_methods():
    print("## 1. Every method on linear-Gaussian models\n")
    print(
        "log p(x) is exact. `same draws` is the largest difference from the naive formula\n"
        "with SciPy's densities, on the draws of the package. `oracle` has draws of its own\n"
        "(20,000 each). K=4, M=3 and L=3, unless the method fixes them. tau and rho are not\n"
        "the true inverses.\n"
    )
    rows = []
    for name, lg in test_closed_forms.CASES:
        found, expected = test_closed_forms.on_the_same_draws(name, lg, SEED)
        bound, oracle, truth = test_closed_forms.on_draws_of_its_own(name, lg, SEED)
        rows.append(
            [
                *(f"`{name}`", prior_of(lg), f"{np.abs(found - expected).max():.0e}"),
                *(plus_minus(bound), plus_minus(oracle)),
                z(test_hierarchy.distance(bound, oracle)),
                *(f"{truth:.4f}", z(z_of_mean(truth - bound))),
            ]
        )
    columns = ["method", "prior", "same draws", "bound", "oracle", "z", "log p(x)", "z below it"]
    table(columns, rows)
    print("### Monotone in K, L and M\n")
    print("Bounds on nested subsets of the same 4,000 draws, and the z of each paired step.\n")
    rows = []
    for name, lg, axis in test_closed_forms.LADDERS:
        values = test_closed_forms.ladder(name, lg, axis, SEED)
        steps = ", ".join(map(str, test_closed_forms.STEPS[axis]))
        rows.append(
            [
                *(f"`{name}`", prior_of(lg), f"{axis} = {steps}"),
                ", ".join(f"{v.mean():.4f}" for v in values),
                ", ".join(z(z_of_mean(b - a)) for a, b in itertools.pairwise(values)),
            ]
        )
    table(["method", "prior", "axis", "bounds", "z of steps"], rows)


def discrete():
    print("## 2. The discrete toy: exact expectations over every possible draw\n")
    rows = []
    for name, hierarchical, axis in test_closed_forms.discrete_cases():
        values = test_closed_forms.discrete_values(name, hierarchical, axis)
        log_evidence = test_closed_forms.TOYS[hierarchical].log_evidence
        worst = max(abs(v[0] / np.exp(log_evidence) - 1) for v in values)
        steps = "-"
        if axis:
            steps = f"{axis} = " + ", ".join(map(str, test_closed_forms.DISCRETE_STEPS[axis][1]))
        rows.append(
            [
                *(f"`{name}`", "hierarchical" if hierarchical else "explicit", steps),
                ", ".join(f"{v[1]:.6f}" for v in values),
                *(f"{log_evidence:.6f}", f"{worst:.0e}"),
            ]
        )
    columns = [
        "method",
        "prior",
        "axis",
        "E bound",
        "log p(x)",
        "largest |E exp(bound) / p(x) - 1|",
    ]
    table(columns, rows)
    print("log q(z) from both sides, KL and mutual information, also enumerated:\n")
    rungs = ["L_1", "L_2", "L_4", "log q(z)", "U_4", "U_2", "U_1", "U_0"]
    table(rungs, [[f"{v:.6f}" for v in test_hierarchy.discrete_marginal_ladder()]])
    rows = []
    for K, L in ((1, 1), (3, 2)):
        kl, information = test_hierarchy.discrete_kl(K, L), test_hierarchy.discrete_information(K)
        found = test_hierarchy.discrete_found(K, L, SEED)
        names = ("`kl_lower`", "`kl_upper`", "information, lower", "information, upper")
        exact = (kl[0], kl[2], information[0], information[2])
        truth = (kl[1], kl[1], information[1], information[1])
        for name, values, expected, t in zip(names, found, exact, truth, strict=True):
            deviation = test_hierarchy.z_of_distance(values, expected)
            rows.append(
                [name, K, L, plus_minus(values), f"{expected:.5f}", z(deviation), f"{t:.5f}"]
            )
    table(["function", "K", "L", "100,000 draws", "its exact mean", "z", "what it bounds"], rows)


def sandwiches():
    print("## 3. log q(z), KL and mutual information from both sides\n")
    print("Means minus the exact log q(z), on nested subsets of the same 20,000 draws:\n")
    rows = []
    for name in test_hierarchy.CASES:
        ladder = test_hierarchy.marginal_ladder(name, SEED)
        truth = ladder[test_hierarchy.RUNGS.index("log q(z)")]
        smallest = min(z_of_mean(b - a) for a, b in itertools.pairwise(ladder))
        rows.append([name, *(f"{np.mean(v - truth):+.4f}" for v in ladder), z(smallest)])
    table(["model", *test_hierarchy.RUNGS, "smallest z of a step"], rows)
    print("The same at K=3, compared with the oracle's own draws (minus the exact log q(z)):\n")
    rows = []
    for name in test_hierarchy.CASES:
        upper, own_upper, lower, own_lower = test_hierarchy.marginal_means(name, 3, SEED)
        for label, found, expected in (("U_3", upper, own_upper), ("L_3", lower, own_lower)):
            deviation = test_hierarchy.distance(found, expected)
            rows.append([name, label, plus_minus(found), plus_minus(expected), z(deviation)])
    table(["model", "bound", "package", "oracle", "z"], rows)
    print("KL(q || p), with exact posterior draws in `kl_lower`:\n")
    rows = []
    for name, pair in test_hierarchy.PAIRS.items():
        ladder = test_hierarchy.kl_ladder(name, SEED)
        oracle = test_hierarchy.kl_oracle(name, SEED)
        deviations = itertools.starmap(test_hierarchy.distance, zip(ladder, oracle, strict=True))
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
    for name in test_hierarchy.HMC_PAIRS:
        by_hmc, exact = test_hierarchy.kl_lower_by_hmc(name, SEED)
        row = [name, plus_minus(by_hmc), plus_minus(exact), z(z_of_mean(by_hmc - exact))]
        rows.append([*row, f"{test_hierarchy.PAIRS[name].kl:.4f}"])
    table(["q, p", "by HMC", "by exact draws", "z, paired", "exact KL"], rows)
    print("Mutual information I(z; psi):\n")
    rows = []
    for name, case in test_hierarchy.CASES.items():
        ladder = test_hierarchy.information_ladder(name, SEED)
        means = [plus_minus(v) for v in ladder]
        rows.append([name, *means[:2], f"{case.information:.4f}", *means[2:]])
    columns = ["model", "lower, K=1", "lower, K=8", "exact", "upper, K=8", "upper, K=1"]
    table(columns, rows)
    print(
        "With the true tau and rho every bound of this section is exact for each draw of z:\n"
        "`tests/inference/test_hierarchy.py` asserts it to 1e-5 or better.\n"
    )


def special_cases():
    print("## 4. Special cases on the same draws\n")
    rows = []
    for name, compute in test_sampling.SPECIAL_CASES.items():
        found, expected = compute()
        rows.append([name, f"{np.abs(found - expected).max():.0e}"])
    table(["identity", "largest difference"], rows)


def gradient_rows(estimator, method, case, group):
    """One line of the table of z-scores, or none where the group is empty."""
    found = test_gradients.replicate_gradients(
        ["reparameterized", estimator], method, seed=SEED, **case
    )
    other, plain = getattr(found[estimator], group), getattr(found["reparameterized"], group)
    if not plain.size:
        return []
    scores = test_gradients.z_scores(other - plain)
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
    for method, case in test_gradients.DREG_CASES:
        rows += gradient_rows("dreg", method, case, "eta")
    for method, case in test_gradients.GDREG_CASES:
        for group in ("phi", "eta", "rho"):
            rows += gradient_rows("gdreg", method, case, group)
    for prior, M in itertools.product((False, True), (1, 4)):
        for group in ("phi", "rho"):
            rows += gradient_rows("iwae-dreg", "iwae", dict(M=M, L=3, prior=prior), group)
    for method, case in parameters_of(
        test_gradients.test_stl_is_unbiased_for_one_z_without_inner_warmup
    ):
        rows += gradient_rows("stl", method, case, "phi")
    columns = ["estimator", "of", "method", "settings", "parameters", "largest abs z", "rms z"]
    table(columns, rows)
    print("Estimators with a known bias, which the differences show:\n")
    rows = []
    for arguments in parameters_of(test_gradients.test_a_biased_estimator_is_seen_to_be_biased):
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
            test_closed_forms.snr(method, estimators, group, SEED, **{symbol: count}, **prior)
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
    """Local slopes of log |bias| in log(K+1), between neighbours."""
    return ", ".join(
        f"{np.log(abs(bias[a] / bias[b])) / np.log((b + 1) / (a + 1)):.2f}"
        for a, b in itertools.pairwise(counts)
    )


def jackknife():
    print("## 6. The jackknife\n")
    print("Exact bias on a discrete toy, and local slopes (the theory: J + 1 for large K):\n")
    counts = (2, 4, 8)
    bias = {K: test_jackknife.exact_bias(K, (0, 1, 2)) for K in (*counts, 12)}
    rows = [
        [
            *(J, *(f"{bias[K][J]:.3e}" for K in (*counts, 12))),
            slopes({K: b[J] for K, b in bias.items()}, (*counts, 12)),
        ]
        for J in range(3)
    ]
    table(["J", *(f"K={K}" for K in (*counts, 12)), "slopes in K + 1"], rows)
    print("A 2-dimensional Laplace with a Gamma tau that is not the true inverse, 40,000 draws:\n")
    errors = {K: test_closed_forms.jackknife_errors(K, SEED) for K in counts}
    rows = [[J, *(plus_minus(errors[K][J]) for K in counts)] for J in range(3)]
    table(["J", *(f"K={K}" for K in counts)], rows)


def annealing_gaps(num_steps):
    """(forward result, log p(x) - bound `[n, B]`, reverse result, bound - log p(x) `[n]`)."""
    run = test_ais.compiled(ais.forward, test_ais.target_of(test_ais.X), num_steps)
    start = test_ais.normal([SEED, 1], 4_000, 3, 2)
    forward = run([start], tf.constant([SEED, num_steps]))
    values = test_ais.bounds_of_runs(forward.log_weights, chains=4)
    x, draws = test_ais.posterior_draws([SEED, 1], observations=2_000, chains=4)
    run = test_ais.compiled(ais.reverse, test_ais.target_of(x), num_steps)
    reverse = run([draws], tf.constant([SEED, num_steps]))
    exact = test_ais.LG.log_evidence
    below, above = exact(test_ais.X) - values.numpy(), reverse.log_evidence.numpy() - exact(x)
    return forward, below, reverse, above


def annealing():
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
        scores, exact = test_svi.replicated_scores(SEED, hierarchical, steps=k)
        unbiased = test_svi.z_of_mean(np.exp(scores["log_likelihood"] - exact) - 1.0)
        gaps = (plus_minus((exact - scores[n]).mean(axis=1)) for n in GAPS)
        kind = "hierarchical" if hierarchical else "explicit"
        rows.append([kind, k, *gaps, f"{np.abs(unbiased).max():.1f}"])
    columns = ["log p(x) - BSVI-k", "log p(x) - ELBO after k", "log p(x) - ELBO at lambda_0"]
    table(["q(z given x)", "k", *columns, "z"], rows)
    bound, elbo, exact = test_svi.theorem_2()
    print(
        f"Theorem 2, enumerated: bound {bound:.4f} < ELBO of the resampled z {elbo:.4f} <= "
        f"log p(x) {exact:.4f}.\n"
    )
    worst = (
        np.abs(test_svi.z_of_mean(test_svi.resampling_errors(SEED, prior))).max()
        for prior in (False, True)
    )
    print(
        "Theta's gradient from one resampled draw against that from all, largest |z|: "
        + ", ".join(f"{value:.1f}" for value in worst)
        + " (explicit, hierarchical prior).\n"
    )
    gains, pi = test_svi.learned_gains(SEED)
    shown = ", ".join(f"{p:.3f}" for p in pi)
    print(f"Learned pi ({shown}) against uniform on fresh draws: +{plus_minus(gains)} nats.\n")


GAPS = ("log_likelihood", "elbo", "elbo_start")


def main():
    header()
    print(f"Methods: {', '.join(f'`{name}`' for name in METHODS)}.\n")
    rows_of_methods()
    discrete()
    sandwiches()
    special_cases()
    gradients()
    signal_to_noise()
    jackknife()
    annealing()
    buffered()


if __name__ == "__main__":
    main()
