"""Gradients do not depend on the caches of inverses in TFP's bijectors.

Each family below is a Gaussian. The reference makes the same draws and has the density of
`Independent(Normal)`, which has no bijector.
"""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import hvi_tf as hvi
from hvi_tf.inference import gradients
from hvi_tf.inference.counts import Counts
from hvi_tf.inference.methods import METHODS
from tests.oracles.analytic import normal

X = tf.constant([[0.5, -1.0], [0.2, 0.4], [1.0, 0.0]], tf.float64)
ONES = tf.ones(2, tf.float64)


def blockwise(loc, scale):
    parts = zip(tf.split(loc, 2, axis=-1), tf.split(scale, 2, axis=-1), strict=True)
    return tfd.Blockwise([tfd.MultivariateNormalDiag(m, s) for m, s in parts])


def reference(loc, scale):
    drawn_from = tfd.MultivariateNormalDiag(loc, scale)
    return hvi.Callables(
        normal(loc, scale).log_prob, lambda shape, seed: drawn_from.sample(shape, seed=seed)
    )


FAMILIES = {
    "MultivariateNormalDiag": tfd.MultivariateNormalDiag,
    "MultivariateNormalTriL": lambda loc, scale: tfd.MultivariateNormalTriL(
        loc, tf.linalg.diag(scale)
    ),
    "TransformedDistribution": lambda loc, scale: tfd.TransformedDistribution(
        tfd.MultivariateNormalDiag(tf.zeros_like(loc), tf.ones_like(loc)),
        tfb.Chain([tfb.Shift(loc), tfb.Scale(scale)]),
    ),
}


class Case:
    """A hierarchical model of one family of distributions, with either kind of prior."""

    def __init__(self, family, hierarchical_prior):
        self.hierarchical_prior = hierarchical_prior
        self.v = {n: tf.Variable(0.3 * ONES) for n in ("theta", "phi", "eta", "rho")}
        v, make = self.v, FAMILIES.get(family, reference)
        prior = make(v["theta"], ONES)
        if hierarchical_prior:
            prior = hvi.Hierarchy(
                prior,
                lambda zeta: make(zeta, 0.8 * ONES),
                lambda z: make(tf.zeros_like(z) + v["rho"], ONES),
            )
        self.model = hvi.Model(
            prior=prior,
            likelihood=lambda z: make(z, ONES),
            conditional=lambda psi, x: make(0.5 * x + 0.5 * psi + v["phi"], 0.5 * ONES),
            mixing=lambda x: make(tf.zeros_like(x), ONES),
            tau=lambda z, x: make(tf.zeros_like(z) + v["eta"], 0.7 * ONES),
        )

    def gradients(self, estimator):
        """Returns the gradients of all variables that the model has."""
        names = [name for name in self.v if self.hierarchical_prior or name != "rho"]
        groups = hvi.ParameterGroups(**{name: [self.v[name]] for name in names})

        @tf.function  # the caches keep tensors of the graph, as in `fit`
        def run():
            return gradients.value_and_gradients(
                self.model,
                METHODS["diwhvi"],
                X,
                groups,
                Counts(K=4, M=2, L=3 if self.hierarchical_prior else 1),
                tf.constant([1, 2]),
                estimator=estimator,
                backward_samples=2,
            )[1]

        return np.concatenate([g for group in run() for g in group])


@pytest.mark.parametrize(
    ("hierarchical_prior", "estimator"),
    [
        (True, "gdreg"),  # the case with the most paths
        *(
            pytest.param(prior, estimator, marks=[pytest.mark.long])
            for prior, estimator in (
                (True, "reparameterized"),
                (False, "gdreg"),
                (False, "reparameterized"),
            )
        ),
    ],
)
def test_gradients_do_not_depend_on_the_family(hierarchical_prior, estimator):
    families = ("reference", "MultivariateNormalDiag", "TransformedDistribution")
    expected, *others = (
        Case(family, hierarchical_prior).gradients(estimator) for family in families
    )
    for ascent in others:
        np.testing.assert_allclose(ascent, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["stl", "iwae-dreg"])
@pytest.mark.parametrize("family", [*FAMILIES, "Blockwise"])
def test_the_path_gradient_of_an_explicit_q_is_0_at_the_posterior(family, estimator):
    """No weight depends on the draw there, so path-only estimators have no noise."""
    shift, log_scale = tf.Variable(0.0 * ONES), tf.Variable(0.0 * ONES)
    make = FAMILIES.get(family, blockwise)
    model = hvi.Model(
        prior=normal(0.0 * ONES, ONES),
        likelihood=lambda z: normal(z, ONES),
        conditional=lambda psi, x: make(
            0.5 * x + shift, tf.zeros_like(x) + 0.5**0.5 * tf.exp(log_scale)
        ),
    )

    def phi_gradients(M, *phi):
        return gradients.value_and_gradients(
            model,
            METHODS["iwae"],
            X,
            hvi.ParameterGroups(phi=phi),
            Counts(M=M),
            tf.constant([1, 2]),
            estimator=estimator,
        )[1].phi

    ascent = phi_gradients(1 if estimator == "stl" else 4, shift, log_scale)
    np.testing.assert_allclose(ascent, 0.0, atol=1e-12)
    shift.assign(0.2 * ONES)
    # The gradient of -KL, the same for every draw.
    np.testing.assert_allclose(phi_gradients(1, shift)[0], -0.4, atol=1e-12)
