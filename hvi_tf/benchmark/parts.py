"""The parts of a training step, each compiled alone and timed on the step's own shapes.

| part | what is timed |
|---|---|
| encoder | a draw of z from x, and the gradients of the encoder's weights |
| inner terms | the K+1 psi of each z, log q(z,psi|x) and log tau(psi|z,x), forward and backward |
| inner loop | the steps of SVI of svi and bsvi, each forward and backward |
| decoder | log p(x|z), forward and backward |
| prior terms | under a hierarchical prior: the L zeta of each z, forward and backward |
| optimizer | one update of all weights |
| input | the next batch alone; training prepares it during the step before |
| host | the extra time of a one-image step as a separate call instead of one of ten |

The parts need not add up to the step. A part alone can use cores and caches differently, the input
overlaps with the step, and the reductions in between belong to no part.
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
    """Returns every part of the step, compiled, by name, except `input` and `host`."""
    made = _Parts(step)
    parts: dict[str, Run] = {"encoder": made.encoder()}
    method = made.model.method
    if method.refines:
        parts["inner loop"] = made.inner_loop()
    elif method.hierarchical:
        parts["inner terms"] = made.inner_terms()
    parts["decoder"] = made.decoder()
    if step.config.method.prior == "hierarchical" and not method.refines:
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
            refined = svi.refine(m.localize, m.method, self.x, m.svi_settings(m.training_K), seed)
            return refined.points.log_weight()

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
        """Returns a run of a value and its gradients by `variables` and `inputs`."""

        @tf.function(jit_compile=self._jit)
        def both(seed: tf.Tensor) -> list[tf.Tensor]:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                value = tf.reduce_sum(forward(seed, *inputs))
            gradients = tape.gradient(value, [*variables, *inputs])
            return [value, *(g for g in gradients if g is not None)]

        return self._loop(both)

    def _loop(self, compute: Callable[[tf.Tensor], Any]) -> Run:
        """Repeats in one call, which excludes the host; uses a number of each result."""

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
    """Returns a run of updates of a separate model, whose weights do not matter."""
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
