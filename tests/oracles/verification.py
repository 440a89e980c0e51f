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

from hvi_tf.inference.methods import METHODS
from tests.oracles import closed_forms, divergences, enumerated, hierarchies
from tests.oracles import verification_estimators as estimators
from tests.oracles.closed_forms import HIERARCHICAL
from tests.oracles.special_cases import SPECIAL_CASES
from tests.oracles.statistics import z_of_difference, z_of_mean
from tests.oracles.tables import SEED, plus_minus, table, z


def prior_of(lg):
    return "hierarchical" if lg is HIERARCHICAL else "explicit"


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
    columns = ["method", "prior", "same draws", "bound", "oracle", "z", "log p(x)", "z below it"]
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
    table(["method", "prior", "axis", "bounds", "z of steps"], rows)


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
    print("Means minus the exact log q(z), on nested subsets of the same 20,000 draws:\n")
    rows = []
    for name in hierarchies.CASES:
        ladder = hierarchies.marginal_ladder(name, SEED)
        truth = ladder[hierarchies.RUNGS.index("log q(z)")]
        smallest = min(z_of_mean(b - a) for a, b in itertools.pairwise(ladder))
        rows.append([name, *(f"{np.mean(v - truth):+.4f}" for v in ladder), z(smallest)])
    table(["model", *hierarchies.RUNGS, "smallest z of a step"], rows)
    print("The same at K=3, compared with the oracle's own draws (minus the exact log q(z)):\n")
    rows = []
    for name in hierarchies.CASES:
        upper, oracle_upper, lower, oracle_lower = hierarchies.marginal_means(name, 3, SEED)
        for label, found, expected in (("U_3", upper, oracle_upper), ("L_3", lower, oracle_lower)):
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
        "With the true tau and rho every bound of this section is exact for each draw of z:\n"
        "`tests/inference/test_sandwich.py` asserts it to 1e-5 or better.\n"
    )


def special_cases():
    print("## 4. Special cases on the same draws\n")
    rows = []
    for name, compute in SPECIAL_CASES.items():
        found, expected = compute()
        rows.append([name, f"{np.abs(found - expected).max():.0e}"])
    table(["identity", "largest difference"], rows)


def main():
    header()
    print(f"Methods: {', '.join(f'`{name}`' for name in METHODS)}.\n")
    rows_of_methods()
    discrete()
    sandwiches()
    special_cases()
    estimators.gradients()
    estimators.signal_to_noise()
    estimators.jackknife()
    estimators.annealed()
    estimators.buffered()


if __name__ == "__main__":
    main()
