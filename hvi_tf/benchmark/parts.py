"""The parts of a training step, each compiled alone and timed on the step's own shapes.

| part | what is timed |
|---|---|
| encoder | a draw of z from x, and back to the encoder's weights |
| inner terms | the K+1 psi of each z, log q(z,psi|x) and log tau(psi|z,x), forward and back |
| inner loop | of svi and bsvi: the steps of SVI; forward and back happen in each |
| decoder | log p(x|z), forward and back |
| prior terms | under a hierarchical prior: the L zeta of each z, forward and back |
| optimizer | one update of all weights |
| input | the next batch alone; in training it is made while the step before is running |
| host | what a step of one image costs more as a call of its own than as one of ten |

They need not add up to the step: alone, a part can use both the cores and the caches
differently, the input overlaps with the step, and the reductions between are in no part.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.benchmark.cells import Cell
from hvi_tf.benchmark.training import Step
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import priors, sampling, svi
from hvi_tf.inference.methods import Counts
from hvi_tf.models.vae import VAE, make_vae

Run = Callable[[int], Any]


def make(step: Step) -> dict[str, Run]:
    """Every part that the step has, compiled, by name; `input` and `host` are not here."""
    made = _Parts(step)
    parts: dict[str, Run] = {"encoder": made.encoder()}
    row = made.model.method
    if row.refines:
        parts["inner loop"] = made.inner_loop()
    elif row.hierarchical:
        parts["inner terms"] = made.inner_terms()
    parts["decoder"] = made.decoder()
    if step.config.method.prior == "hierarchical" and not row.refines:
        parts["prior terms"] = made.prior_terms()
    parts["optimizer"] = optimizer(step.cell)
    return parts


class _Parts:
    def __init__(self, step: Step) -> None:
        self.model: VAE = step.model
        self.x = step.batch()
        self._jit = step.config.training.jit_compile == "on"
        m = self.model
        shape = [m.counts.M, len(self.x), m.model_config.latent_dim]
        self._z = tf.random.stateless_normal(shape, [0, 1], alg="philox")

    def encoder(self) -> Run:
        m = self.model

        def draw(seed: tf.Tensor) -> tf.Tensor:
            return sampling.draw(m.prepare(self.x), m.method, self.x, Counts(M=m.counts.M), seed).z

        return self._there_and_back(draw, m.parameter_groups.phi)

    def inner_terms(self) -> Run:
        m, groups = self.model, self.model.parameter_groups
        count = m.method.psi_per_z(Counts(K=m.training_K, M=m.counts.M)) + 1

        def terms(seed: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
            model = m.prepare(self.x)
            psi = sampling.draw_psi(model, m.method, z, self.x, count, seed)
            parts = densities_lib.inner_log_densities(model, m.method, self.x, z, psi)
            return parts[0] + parts[1] - parts[2]

        return self._there_and_back(terms, [*groups.phi, *groups.eta], self._z)

    def inner_loop(self) -> Run:
        m = self.model

        def refine(seed: tf.Tensor) -> tf.Tensor:
            found = svi.refine(m.localize, m.method, self.x, m.svi_settings(m.training_K), seed)
            return found.points.log_weight()

        return self._loop(tf.function(refine, jit_compile=self._jit))

    def decoder(self) -> Run:
        m, z = self.model, self._z
        if m.method.weights_proposals and not m.method_config.sir:
            z = tf.tile(z[:1], [m.method_config.svi_steps + 1, 1, 1])

        def score(seed: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
            del seed
            return m.likelihood(z).log_prob(self.x)

        decoder = [*m.decoder.trainable_variables, *m.pixels.trainable_variables]
        return self._there_and_back(score, decoder, z)

    def prior_terms(self) -> Run:
        m = self.model

        def terms(seed: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
            prior = priors.hierarchical(m.callables.prior)
            zeta = prior.draw_zeta(m.method, z, None, m.counts.L, seed)
            return prior.log_ratios(m.method, z, zeta)

        networks = (m.prior_decoder, m.prior_inverse)
        variables = [v for n in networks if n is not None for v in n.trainable_variables]
        return self._there_and_back(terms, variables, self._z)

    def _there_and_back(
        self, forward: Callable[..., tf.Tensor], variables: Sequence[Any], *inputs: tf.Tensor
    ) -> Run:
        """The value and its gradients by `variables` and `inputs`."""

        @tf.function(jit_compile=self._jit)
        def both(seed: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = tf.reduce_sum(forward(seed, *inputs))
            gradients = tape.gradient(value, [*variables, *inputs])
            return [value, *(g for g in gradients if g is not None)]

        return self._loop(both)

    def _loop(self, compute: Callable[[tf.Tensor], Any]) -> Run:
        """Repeats in one call, so that no host is timed; a number of each result is used."""

        @tf.function
        def loop(count: tf.Tensor) -> tf.Tensor:
            total = tf.zeros([])
            for i in tf.range(count):
                seed = randomness.fold(0, randomness.Purpose.TRAIN, i)
                total += tf.add_n([tf.reshape(r, [-1])[0] for r in tf.nest.flatten(compute(seed))])
            return total

        def run(count: int) -> None:
            loop(tf.constant(count)).numpy()

        run(1)
        return run


def optimizer(cell: Cell) -> Run:
    """Updates of a model of its own, whose weights end up anywhere."""
    model = make_vae(cell.config, cell.x_dim)
    variables = [v for group in model.parameter_groups for v in group]
    gradients = [1e-3 * tf.ones(v.shape) for v in variables]

    @tf.function
    def loop(count: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(count):
            model.optimizer.apply(gradients, variables)
        return tf.reshape(variables[0], [-1])[0]

    def run(count: int) -> None:
        loop(tf.constant(count)).numpy()

    run(1)
    return run
