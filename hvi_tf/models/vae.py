"""The variational autoencoder of Sobolev & Vetrov 2019, section 6.2 and appendix F."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, gradients, sampling, seeds
from hvi_tf.config import Config, ModelConfig
from hvi_tf.gradients import Objective, ParameterGroups
from hvi_tf.methods import METHODS, Method
from hvi_tf.models import distributions, networks

Metrics = dict[str, tf.Tensor]


class VAE(keras.Model):
    """A Bernoulli decoder of z ~ N(0, I) with an explicit or hierarchical encoder.

    `train_step` is the one definition of a training step; `keras.Model.fit` and the
    command line both run it. The schedule values are attributes (`set_schedule`).

    Args:
        method: row of the method table.
        K: number of psi_1:K in validation, and in training until `set_schedule`.
        M: number of z.
        model_config: sizes.
        x_dim: pixels of an observation.
        seed: the run's seed; also of the initial weights.
    """

    def __init__(
        self, method: Method, K: int, M: int, model_config: ModelConfig, x_dim: int, seed: int = 0
    ) -> None:
        super().__init__(name="vae")
        self.method, self.K, self.M, self.seed = method, K, M, seed
        self.x_dim, self.model_config = x_dim, model_config
        self.training_K = K
        self.inner = tf.Variable(1.0, trainable=False, name="inner")
        self.outer = tf.Variable(1.0, trainable=False, name="outer")
        self._build_networks(seeds.initializer_seeds(seed))
        self.built = True

    def _build_networks(self, rng: Any) -> None:
        c, x_dim = self.model_config, self.x_dim
        hierarchical, has_tau = self.method.hierarchical, self.method.inverse == "tau"
        self.decoder = networks.MLP(c.latent_dim, c.hidden, x_dim, rng)
        if hierarchical:
            self.encoder = networks.ConditionedMLP(
                x_dim, c.aux_dim, c.hidden, 2 * c.latent_dim, rng, reinject=True
            )
        else:
            self.encoder = networks.MLP(x_dim, c.hidden, 2 * c.latent_dim, rng)
        heads = 2 if c.tau_gate_bias is None else 3
        self.inverse: Any = (
            networks.ConditionedMLP(
                x_dim, c.latent_dim, c.hidden, heads * c.aux_dim, rng, reinject=False
            )
            if has_tau
            else None
        )

    # The five callables of `sampling.Model`.

    def conditional(self, psi: tf.Tensor | None, x: tf.Tensor) -> tfd.Distribution:
        """q(z|psi,x), or q(z|x) if psi is None."""
        outputs = self.encoder(x) if psi is None else self.encoder(x, psi)
        return networks.gaussian_head(outputs)

    def mixing(self, x: tf.Tensor) -> tfd.Distribution:
        """q(psi|x) = N(0, I), with batch shape `[B]`."""
        return distributions.standard_normal([tf.shape(x)[0]], self.model_config.aux_dim)

    def tau(self, z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
        """What proposes psi given z and x."""
        outputs = self.inverse(x, z)
        bias = self.model_config.tau_gate_bias
        if bias is None:
            return networks.gaussian_head(outputs)
        return networks.gated_gaussian_head(outputs, bias)

    def likelihood(self, z: tf.Tensor) -> tfd.Distribution:
        """p(x|z), independent Bernoulli pixels."""
        return tfd.Independent(tfd.Bernoulli(logits=self.decoder(z)), 1)

    @property
    def prior(self) -> tfd.Distribution:
        """p(z) = N(0, I)."""
        return distributions.standard_normal([], self.model_config.latent_dim)

    @property
    def callables(self) -> sampling.Model:
        """The model as the functions of `sampling` take it."""
        return sampling.Model(
            prior=self.prior,
            likelihood=self.likelihood,
            conditional=self.conditional,
            mixing=self.mixing,
            tau=self.tau,
        )

    @property
    def parameter_groups(self) -> ParameterGroups:
        """theta, phi and eta."""
        return ParameterGroups(
            theta=self.decoder.trainable_variables,
            phi=self.encoder.trainable_variables,
            eta=self.inverse.trainable_variables if self.inverse is not None else [],
        )

    @property
    def networks(self) -> dict[str, keras.layers.Layer]:
        """The layers that hold all weights, by name."""
        layers = {"decoder": self.decoder, "encoder": self.encoder, "inverse": self.inverse}
        return {name: layer for name, layer in layers.items() if layer is not None}

    # Training.

    def compile(  # type: ignore[override]
        self,
        optimizer: keras.optimizers.Optimizer,
        gradient: str = "reparameterized",
        jit_compile: bool = False,
    ) -> None:
        """Chooses the optimizer, the gradient estimator and XLA for the heavy part."""
        super().compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(self.trainable_variables)
        self.estimator = gradients.ESTIMATORS[gradient]
        self._ascend = tf.function(self._metrics_and_gradients, jit_compile=jit_compile)
        self._measure = tf.function(self._validation_bound, jit_compile=jit_compile)

    def set_schedule(self, K: int, inner: float, outer: float, learning_rate: float) -> None:
        """Sets what the schedules prescribe; a new K retraces the step at its next call."""
        self.inner.assign(inner)
        self.outer.assign(outer)
        self.optimizer.learning_rate = learning_rate
        if self.training_K != K:
            self.training_K = K
            if self.train_function is not None:  # Keras's own, which has the old K built in
                self.make_train_function(force=True)

    def train_step(self, data: tf.Tensor) -> Metrics:
        """One step of gradient ascent on the warmed-up bound of a batch `[B, Dx]`.

        The draw is folded from (seed, step). If a term or a gradient is not finite the
        weights stay as they are, and the metrics tell.
        """
        step = self.optimizer.iterations
        seed = seeds.fold(self.seed, seeds.Purpose.TRAIN, step)
        metrics, ascent = self._ascend(data, seed, self.inner, self.outer, self.training_K)
        finite = tf.reduce_all([tf.math.is_finite(m) for m in metrics.values()])

        def apply() -> tf.Tensor:
            variables = [v for group in self.parameter_groups for v in group]
            self.optimizer.apply([-g for group in ascent for g in group], variables)
            return finite

        tf.cond(finite, apply, lambda: finite)
        return metrics

    def _metrics_and_gradients(
        self, x: tf.Tensor, seed: tf.Tensor, inner: tf.Tensor, outer: tf.Tensor, K: int
    ) -> tuple[Metrics, ParameterGroups]:
        model = self.callables
        with tf.GradientTape(persistent=True) as tape:
            sample = sampling.draw(model, self.method, x, K=K, M=self.M, seed=seed)
            densities = sampling.log_densities(model, self.method, x, sample)
            value = tf.reduce_mean(bounds.bound(densities, inner, outer))
        objective = Objective(value, sample, densities, inner, outer)
        ascent = self.estimator(tape, objective, self.parameter_groups)
        return {**_metrics(value, densities, K), **_gradient_norms(ascent)}, ascent

    # Validation.

    def test_step(self, data: tf.Tensor) -> Metrics:
        """The bound without warm-ups at the full K, of a batch `[B, Dx]`."""
        seed = seeds.fold(self.seed, seeds.Purpose.VALIDATE)
        return {"bound": tf.reduce_mean(self.validation_bound(data, seed))}

    def validation_bound(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The bound at the fixed K and M, without warm-ups, `[B]` nats."""
        return self._measure(x, seed)

    def _validation_bound(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        model = self.callables
        sample = sampling.draw(model, self.method, x, K=self.K, M=self.M, seed=seed)
        return bounds.bound(sampling.log_densities(model, self.method, x, sample))

    # Pictures.

    def encode(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """A draw of z ~ q(z|x) for each observation: `[B, Dx] -> [B, Dz]`."""
        return sampling.draw(self.callables, self.method, x, K=0, M=1, seed=seed).z[0]

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z): `[..., Dz] -> [..., Dx]`."""
        return self.likelihood(z).mean()

    def reconstruct(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The decoder's mean at a draw from q(z|x): `[B, Dx] -> [B, Dx]`."""
        return self.decode(self.encode(x, seed))

    def sample_means(self, n: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The decoder's means at `n` draws from the prior: `[n, Dx]`."""
        return self.decode(self.prior.sample(n, seed=seed))


def make_vae(config: Config, x_dim: int) -> VAE:
    """The compiled model that a configuration describes, for observations of `x_dim` pixels."""
    m, t = config.method, config.training
    model = VAE(METHODS[m.bound], m.K, m.M, config.model, x_dim, t.seed)
    optimizer = keras.optimizers.Adam(t.learning_rate, beta_1=0.9, beta_2=0.999)
    model.compile(optimizer, gradient=m.gradient, jit_compile=t.jit_compile == "on")
    return model


def _metrics(objective: tf.Tensor, densities: bounds.LogDensities, K: int) -> Metrics:
    """Batch means of the terms, in nats; effective sample sizes as counts."""
    log_ratios = bounds.inner_log_ratios(densities)
    log_weights = bounds.outer_log_weights(densities)
    log_prior = bounds.log_mean_exp(densities.log_prior)
    terms = {
        "objective": objective,
        "bound": bounds.log_mean_exp(log_weights),
        "log_likelihood": densities.log_likelihood,
        "log_prior": log_prior,
        "log_q_z_upper": bounds.log_marginal_upper(log_ratios),
        "log_q_psi": densities.log_q_psi,
        "log_tau": densities.log_tau,
        "ess_outer": bounds.effective_sample_size(log_weights),
        "ess_inner": bounds.effective_sample_size(log_ratios),
    }
    if K > 0:
        terms["kl_tau_mixing"] = (densities.log_tau - densities.log_q_psi)[1:]
    metrics = {name: tf.reduce_mean(term) for name, term in terms.items()}
    metrics["kl_z"] = metrics["log_q_z_upper"] - metrics["log_prior"]
    return metrics


def _gradient_norms(ascent: ParameterGroups) -> Metrics:
    return {
        f"gradient_norm_{name}": tf.linalg.global_norm(group)
        for name, group in zip(ascent._fields, ascent, strict=True)
        if group
    }
