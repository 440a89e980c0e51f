"""The two examples: a better posterior raises the evidence bound."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import tensorflow as tf

import hvi_tf as hvi
from hvi_tf.examples import laplace, logistic_regression


def logistic_log_evidence(data, draws=400_000):
    """Returns log p(x) by importance sampling from the Laplace approximation, in NumPy."""
    design, labels = data.design.astype(np.float64), data.labels[0]
    w = np.zeros(design.shape[1])
    for _ in range(50):  # Newton
        p = scipy.special.expit(design @ w)
        precision = np.eye(len(w)) + design.T @ (design * (p * (1 - p))[:, None])
        w += np.linalg.solve(precision, design.T @ (labels - p) - w)
    root = np.linalg.cholesky(np.linalg.inv(precision))
    noise = np.random.default_rng(0).standard_t(8, size=(draws, len(w)))
    draws_w = w + 1.1 * noise @ root.T
    logits = draws_w @ design.T
    log_joint = np.sum(labels * logits - np.logaddexp(0, logits), axis=1)
    log_joint += scipy.stats.norm.logpdf(draws_w).sum(axis=1)
    log_q = scipy.stats.t.logpdf(noise, 8).sum(axis=1) - np.linalg.slogdet(1.1 * root)[1]
    return scipy.special.logsumexp(log_joint - log_q) - np.log(draws)


@pytest.mark.long
def test_a_semi_implicit_posterior_closes_the_gap_of_a_factorized_one():
    """Both bounds are below the evidence, and the gap of the mixture is less than half."""
    data = logistic_regression.simulate()
    exact = logistic_log_evidence(data)
    x, values = np.repeat(data.labels, 32, axis=0), {}
    for name, bound, gradient, counts, steps in (
        ("factorized", "vae", "stl", {}, 400),
        ("semi_implicit", "iwhvi", "gdreg", {"K": 10}, 1_000),
    ):
        model, variables = getattr(logistic_regression, name)(data)
        adam = tf.keras.optimizers.Adam(5e-3)
        course = hvi.fit(
            model,
            x,
            variables,
            bound=bound,
            gradient=gradient,
            steps=steps,
            optimizer=adam,
            **counts,
        )
        assert course[-50:].mean() > course[:50].mean() + 1
        values[name] = hvi.evidence(model, data.labels, bound=bound, replicates=300, **counts)
        assert values[name].mean[0] < exact
    gaps = {name: exact - value.mean[0] for name, value in values.items()}
    assert gaps["semi_implicit"] < 0.5 * gaps["factorized"], gaps


@pytest.mark.long
def test_a_gamma_tau_tightens_the_bound_of_sivi_on_a_laplace_entropy():
    model, variables = laplace.entropy_model(dim=10, hidden=(50, 50))
    exact = -10 * (1 + np.log(2))
    batch, many = tf.zeros([100, 1]), tf.zeros([4_000, 1])
    sivi = -hvi.evidence(model, many, bound="sivi", K=10, replicates=2).mean
    adam = tf.keras.optimizers.Adam(3e-3)
    hvi.fit(
        model, batch, variables, bound="iwhvi", K=10, gradient="dreg", steps=400, optimizer=adam
    )
    fitted = -hvi.evidence(model, many, bound="iwhvi", K=10, replicates=2).mean
    assert exact < fitted.mean()
    assert fitted.mean() - exact < 0.5 * (sivi.mean() - exact)
