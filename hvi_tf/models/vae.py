"""The variational autoencoder of Sobolev & Vetrov 2019, section 6.2 and appendix F."""

from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import bounds, gradients, hierarchy, log_likelihood, sampling, seeds
from hvi_tf.config import Config
from hvi_tf.gradients import Objective, ParameterGroups
from hvi_tf.hierarchy import Hierarchy
from hvi_tf.log_likelihood import ImageScores
from hvi_tf.methods import METHODS
from hvi_tf.models import distributions, networks
from hvi_tf.models.flows import Flow
from hvi_tf.settings import MethodConfig, ModelConfig

Metrics = dict[str, tf.Tensor]


class VAE(keras.Model):
    """A Bernoulli decoder of z with an explicit, flow or hierarchical encoder.

    `train_step` is the one definition of a training step; `keras.Model.fit` and the
    command line both run it. The schedule values are attributes (`set_schedule`).

    Args:
        method_config: the row of the method table, its counts, prior and posterior; its K
            is that of validation, and of training until `set_schedule`.
        model_config: sizes.
        x_dim: pixels of an observation.
        seed: the run's seed; also of the initial weights.
        frozen: whether only the inverse models tau and rho are trained.
    """

    def __init__(
        self,
        method_config: MethodConfig,
        model_config: ModelConfig,
        x_dim: int,
        seed: int = 0,
        frozen: bool = False,
    ) -> None:
        super().__init__(name="vae")
        self.method, self.method_config = METHODS[method_config.bound], method_config
        self.K, self.M, self.L = method_config.K, method_config.M, method_config.L
        self.x_dim, self.model_config, self.seed = x_dim, model_config, seed
        self.training_K = self.K
        self.inner = tf.Variable(1.0, trainable=False, name="inner")
        self.outer = tf.Variable(1.0, trainable=False, name="outer")
        self._build_networks(seeds.initializer_seeds(seed))
        if frozen:
            for name, layer in self.networks.items():
                layer.trainable = _GROUPS[name] in ("eta", "rho")
        self.built = True

    def _build_networks(self, rng: Any) -> None:
        c, x_dim, row = self.model_config, self.x_dim, self.method
        mlp, conditioned = networks.MLP, networks.ConditionedMLP
        self.decoder = mlp(c.latent_dim, c.hidden, x_dim, rng)
        self.inverse: Any = None
        self.flow: Any = None
        self.prior_decoder: Any = None
        self.prior_inverse: Any = None
        if row.hierarchical:
            outputs = 2 * c.latent_dim
            self.encoder = conditioned(x_dim, c.aux_dim, c.hidden, outputs, rng, reinject=True)
        elif self.method_config.posterior == "gaussian":
            self.encoder = mlp(x_dim, c.hidden, 2 * c.latent_dim, rng)
        else:  # a third head is the flows' context
            self.encoder = mlp(x_dim, c.hidden, 3 * c.latent_dim, rng)
            kind = self.method_config.posterior
            self.flow = Flow(c.latent_dim, c.latent_dim, kind, c.num_flows, c.flow_hidden, rng)
        if row.inverse == "tau":
            outputs = (2 if c.tau_gate_bias is None else 3) * c.aux_dim
            self.inverse = conditioned(x_dim, c.latent_dim, c.hidden, outputs, rng, reinject=False)
        if self.method_config.prior == "hierarchical":
            self.prior_decoder = mlp(c.prior_dim, c.hidden, 2 * c.latent_dim, rng)
            if row.zeta == "rho":
                self.prior_inverse = mlp(c.latent_dim, c.hidden, 2 * c.prior_dim, rng)

    # The callables of `sampling.Model`.

    def conditional(self, psi: tf.Tensor | None, x: tf.Tensor) -> tfd.Distribution:
        """q(z|psi,x), or q(z|x) if psi is None."""
        if psi is not None:
            return networks.gaussian_head(self.encoder(x, psi))
        outputs = self.encoder(x)
        if self.flow is None:
            return networks.gaussian_head(outputs)
        latents = self.model_config.latent_dim
        base = networks.gaussian_head(outputs[..., : 2 * latents])
        return self.flow.distribution(base, outputs[..., 2 * latents :])

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
    def prior(self) -> tfd.Distribution | Hierarchy:
        """p(z) = N(0, I), or int p(z|zeta) N(zeta; 0, I) dzeta with rho(zeta|z)."""
        if self.prior_decoder is None:
            return distributions.standard_normal([], self.model_config.latent_dim)
        return Hierarchy(
            mixing=distributions.standard_normal([], self.model_config.prior_dim),
            conditional=lambda zeta: networks.gaussian_head(self.prior_decoder(zeta)),
            inverse=lambda z: networks.gaussian_head(self.prior_inverse(z)),
        )

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
    def networks(self) -> dict[str, keras.layers.Layer]:
        """The layers that hold all weights, by name."""
        return {name: getattr(self, name) for name in _GROUPS if getattr(self, name) is not None}

    @property
    def parameter_groups(self) -> ParameterGroups:
        """theta, phi, eta and rho; what is frozen is in none."""
        groups = ParameterGroups([], [], [], [])
        for name, layer in self.networks.items():
            getattr(groups, _GROUPS[name]).extend(layer.trainable_variables)
        return groups

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
        self.estimator = gradient
        self._ascend = tf.function(self._metrics_and_gradients, jit_compile=jit_compile)
        self._score = log_likelihood.make_scorer(
            self.callables, self.method, self.validation_plan, jit_compile
        )

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
        objective, ascent = gradients.value_and_gradients(
            self.callables,
            self.method,
            x,
            self.parameter_groups,
            K=K,
            M=self.M,
            L=self.L,
            seed=seed,
            estimator=self.estimator,
            inner=inner,
            outer=outer,
        )
        return {**_metrics(objective, K), **_gradient_norms(ascent)}, ascent

    # Validation.

    def test_step(self, data: tf.Tensor) -> Metrics:
        """The bound without warm-ups at the full K, of a batch `[B, Dx]`."""
        seed = seeds.fold(self.seed, seeds.Purpose.VALIDATE)
        return {"bound": tf.reduce_mean(self.validation_scores(data, seed).log_likelihood)}

    @property
    def validation_plan(self) -> log_likelihood.Plan:
        """The fixed counts of validation."""
        return log_likelihood.make_plan(
            self.M, sampling.psi_per_z(self.method, self.K, self.M), self.L
        )

    def validation_scores(self, x: tf.Tensor, seed: tf.Tensor) -> ImageScores:
        """The bound and its diagnostics at the fixed K, M and L, without warm-ups, `[B]`."""
        return self._score(x, seed)

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
        prior = self.prior
        if isinstance(prior, Hierarchy):
            z, _ = hierarchy.sample(prior, n, seed)
        else:
            z = prior.sample(n, seed=seed)
        return self.decode(z)


# Of which group of parameters each network is.
_GROUPS = {
    "decoder": "theta",
    "prior_decoder": "theta",
    "encoder": "phi",
    "flow": "phi",
    "inverse": "eta",
    "prior_inverse": "rho",
}


def make_vae(config: Config, x_dim: int) -> VAE:
    """The compiled model that a configuration describes, for observations of `x_dim` pixels."""
    m, t = config.method, config.training
    model = VAE(m, config.model, x_dim, t.seed, frozen=bool(t.frozen))
    optimizer = keras.optimizers.Adam(t.learning_rate, beta_1=0.9, beta_2=0.999)
    model.compile(optimizer, gradient=m.gradient, jit_compile=t.jit_compile == "on")
    return model


def _metrics(objective: Objective, K: int) -> Metrics:
    """Batch means of the terms, in nats; effective sample sizes as counts."""
    densities = objective.densities
    log_ratios = bounds.inner_log_ratios(densities)
    log_weights = bounds.outer_log_weights(densities)
    log_prior = bounds.log_mean_exp(densities.log_prior)
    terms = {
        "objective": objective.value,
        "bound": bounds.log_mean_exp(log_weights),
        "log_likelihood": densities.log_likelihood,
        "log_prior": log_prior,
        "log_q_z_upper": bounds.log_marginal_upper(log_ratios),
        "log_q_psi": densities.log_q_psi,
        "log_tau": densities.log_tau,
        "ess_outer": bounds.effective_sample_size(log_weights),
        "ess_inner": bounds.effective_sample_size(log_ratios),
    }
    if K > 0 and objective.method.inverse == "tau":
        terms["kl_tau_mixing"] = (densities.log_tau - densities.log_q_psi)[1:]
    metrics = {name: tf.reduce_mean(term) for name, term in terms.items()}
    metrics["kl_z"] = metrics["log_q_z_upper"] - metrics["log_prior"]
    return metrics


def _gradient_norms(ascent: ParameterGroups) -> Metrics:
    return {
        f"gradient_norm_{name}": tf.linalg.global_norm(group)
        for name, group in zip(ascent._fields, ascent, strict=True)
        if len(group)
    }
