"""Models whose proposals an inner SVI loop refines, and statistics of its bounds."""

import itertools

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import methods, refined_scores, svi, svi_gradients
from hvi_tf.inference.model import Hierarchy, LocalModel, Model, ParameterGroups
from hvi_tf.inference.svi import SVI
from tests.oracles.analytic import Refinable, normal, standard_normal

EXPLICIT = methods.look_up("bsvi")
HIERARCHICAL = methods.look_up("bsvi", "hierarchical")
X = Refinable().observations(3)
REPLICATES = 2_000


def settings(steps=9, hierarchical=False, **values):
    values = dict(learning_rate=0.1, K=2 if hierarchical else 0) | values
    return SVI(steps, **values)


def replicated_scores(seed, hierarchical=False, draws=1, **values):
    """Returns the scores of each observation, `[REPLICATES, 3]` nats, and log p(x) `[3]`."""
    lg = Refinable(hierarchical=hierarchical, tau_shift=0.3)
    method = HIERARCHICAL if hierarchical else EXPLICIT
    score = refined_scores.make_scorer(
        lg.localize, method, settings(hierarchical=hierarchical, **values), draws=draws
    )
    scores = score(tf.constant(np.tile(X, [REPLICATES, 1])), tf.constant([seed, 1]))
    by_name = {
        name: value.numpy().reshape(REPLICATES, len(X)) for name, value in scores._asdict().items()
    }
    return by_name, lg.log_evidence(X)


class DiscreteBuffer:
    """Three draws of a z of four values from a joint q(z_0,z_1,z_2), all outcomes."""

    def __init__(self, independent):
        rng = np.random.default_rng(5)
        self.joint = rng.uniform(0.1, 1.0, size=4)  # p(x,z)
        if independent:
            parts = rng.dirichlet(np.ones(4), size=3)
            self.q = np.einsum("i,j,k->ijk", *parts)
        else:
            self.q = rng.dirichlet(np.ones(64)).reshape(4, 4, 4)
        self.pi = rng.dirichlet(np.ones(3))
        self.z = np.array(list(itertools.product(range(4), repeat=3))).T  # [3, 64]
        self.probs = self.q[tuple(self.z)]

    def log_weights(self, conditioned_on):
        """Returns log p(x,z_i) - log q(z_i|z_v(i)) `[3, 64]` for v(i) = conditioned_on[i]."""
        log_weights = []
        for i, others in enumerate(conditioned_on):
            kept = sorted({i, *others})
            summed = tuple(set(range(3)) - set(kept))
            marginal = self.q.sum(axis=summed)
            conditional = marginal / marginal.sum(axis=kept.index(i), keepdims=True)
            log_q = np.log(conditional[tuple(self.z[kept])])
            log_weights.append(np.log(self.joint[self.z[i]]) - log_q)
        return np.stack(log_weights)


ORDERS = {
    "each alone": [(), (), ()],
    "on those before": [(), (0,), (0, 1)],
    "on those after": [(1, 2), (2,), ()],
    "on all others": [(1, 2), (0, 2), (0, 1)],
    "mixed": [(2,), (0,), (0, 1)],
}


def theorem_2():
    """Returns the bound, the ELBO of the resampled z, and log p(x)."""
    toy = DiscreteBuffer(independent=True)
    log_weights = toy.log_weights(ORDERS["on those before"])
    log_pi = np.log(toy.pi)
    r = bounds.buffer_responsibilities(log_weights, log_pi).numpy()
    q_sir = np.array([(toy.probs * (r * (toy.z == value)).sum(axis=0)).sum() for value in range(4)])
    elbo = q_sir @ (np.log(toy.joint) - np.log(q_sir))
    bound = toy.probs @ bounds.generalized_iwae(log_weights, log_pi).numpy()
    return bound, elbo, np.log(toy.joint.sum())


class Trainable:
    """A model with one copy of theta, rho and lambda_0 per observation."""

    def __init__(self, count, hierarchical_prior=False):
        rng = np.random.default_rng(8)

        def variable(value):
            return tf.Variable(np.broadcast_to(value, (count, *np.shape(value))))

        self.x = tf.constant(np.broadcast_to(rng.normal(size=3), (count, 3)))
        self.W, self.G = variable(rng.normal(size=(3, 2))), variable(rng.normal(size=(2, 2)))
        self.start = variable(np.array([0.3, -0.2, -0.5, 0.1]))
        self.rho_loc = variable(np.zeros(2))
        self.hierarchical_prior = hierarchical_prior
        theta = [self.W, self.G] if hierarchical_prior else [self.W]
        rho = [self.rho_loc] if hierarchical_prior else []
        self.variables = ParameterGroups(theta=theta, phi=[self.start], rho=rho)

    def localize(self, x):
        prior = standard_normal(2)
        if self.hierarchical_prior:
            prior = Hierarchy(
                standard_normal(2),
                lambda zeta: normal(tf.linalg.matvec(self.G, zeta), 0.7 * tf.ones_like(zeta)),
                lambda z: normal(z + self.rho_loc, tf.ones_like(z)),
            )

        def at(lam):
            mean, log_variance = tf.split(lam, 2, axis=-1)
            return Model(
                prior,
                lambda z: normal(tf.linalg.matvec(self.W, z), tf.ones_like(self.x)),
                lambda psi, x: normal(mean, tf.exp(0.5 * log_variance)),
            )

        return LocalModel(tf.convert_to_tensor(self.start), at)

    def gradients(self, seed, **values):
        """Returns the trajectory and the gradient of every group."""
        values = dict(settings=settings(4, L=2), log_pi=LOG_PI, seed=tf.constant(seed)) | values
        return svi_gradients.value_and_gradients(
            self.localize, EXPLICIT, self.x, self.variables, **values
        )


LOG_PI = tf.math.log(tf.constant([0.1, 0.1, 0.2, 0.2, 0.4], tf.float64))


def resampling_errors(seed, hierarchical_prior):
    """Returns theta's gradient from one resampled draw minus that from all draws.

    Returns:
        `[20000, parameters]`, one row per replicate.
    """
    model = Trainable(20_000, hierarchical_prior)
    full, one = (model.gradients([seed, 2], sir=sir)[1].theta for sir in (False, True))
    return np.concatenate(
        [
            len(model.x) * (drawn - whole).numpy().reshape(len(model.x), -1)
            for whole, drawn in zip(full, one, strict=True)
        ],
        axis=1,
    )


def learned_gains(seed):
    """Returns the gain of learned pi over a uniform pi on fresh draws `[3000]`, and pi."""
    lg, k = Refinable(), 6
    x = tf.constant(np.repeat(X, 1_000, axis=0))
    logits = tf.Variable(tf.zeros([k + 1], tf.float64))
    optimizer = keras.optimizers.Adam(0.1)
    refine = tf.function(
        lambda s: svi.refine(lg.localize, EXPLICIT, x, settings(k), s).points.log_weight()
    )
    for step in range(60):
        log_weights = refine(tf.constant([seed % 1000, step]))
        optimizer.apply([-svi_gradients._pi_gradient(log_weights, [logits])[0]], [logits])
    log_weights = refine(tf.constant([seed % 1000, -1]))
    learned = bounds.generalized_iwae(log_weights, tf.nn.log_softmax(logits))
    gains = (learned - bounds.log_mean_exp(log_weights)).numpy()
    return gains, tf.nn.softmax(logits).numpy()
