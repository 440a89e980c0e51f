"""The autoencoder with its training step, the same for every method of the table."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MethodConfig, ModelConfig
from hvi_tf.inference.ascent import as_optimizer
from hvi_tf.inference.counts import NO_WARMUP, Warmup
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.model import ParameterGroups
from hvi_tf.inference.objective import NO_FREE_BITS, FreeBits
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models import metrics, observations, optimizers, step_gradients, validation
from hvi_tf.models import replica_noise as replicas
from hvi_tf.models.architecture import GROUPS
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.models.metrics import Metrics
from hvi_tf.models.step_gradients import KLAnnealing


class VAE(Autoencoder):
    """The autoencoder with its training step.

    `train_step` is the one definition of a training step; `keras.Model.fit` and the
    command line both run it. The schedule values are attributes (`set_schedule`).

    Args:
        method_config: the method, its counts, prior and posterior; its K is that of
            validation, and that of training until `set_schedule`.
        model_config: the kinds and sizes of the networks.
        x_dim: pixels of an observation.
        seed: of the run and of the initial weights, from 0 to 2^31 - 1.
        frozen: whether to train only the inverse models tau and rho.
    """

    def __init__(
        self,
        method_config: MethodConfig,
        model_config: ModelConfig,
        x_dim: int,
        seed: int = 0,
        frozen: bool = False,
    ) -> None:
        super().__init__(method_config, model_config, x_dim, seed)
        self.training_K = self.counts.K
        self.inner = tf.Variable(1.0, trainable=False, name="inner")
        self.outer = tf.Variable(1.0, trainable=False, name="outer")
        if frozen:
            for name, layer in self.networks.items():
                layer.trainable = GROUPS[name] in ("eta", "rho")

    def compile(  # type: ignore[override]
        self,
        optimizer: keras.optimizers.Optimizer | type | str,
        gradient: str = "reparameterized",
        jit_compile: bool = False,
        kl_annealing_start: float = 1.0,
        kl_annealing_steps: int = 0,
        free_bits: FreeBits = NO_FREE_BITS,
        tau_steps: int = 0,
        tau_optimizer: keras.optimizers.Optimizer | type | str = "adam",
    ) -> None:
        """Chooses the optimizer, the gradient estimator and XLA for the heavy part.

        Args:
            optimizer: of all networks; a Keras 3 optimizer, or its class or name. If its
                `use_ema` is set, it averages the weights, see `averaged`.
            gradient: a key of `gradients.ESTIMATORS` that the method takes.
            jit_compile: whether to use XLA for the forward and backward pass, and on one device
                for the optimizer.
            kl_annealing_start: weight of log p(z) - log q(z|x) at step 0.
            kl_annealing_steps: steps over which that weight rises linearly to 1.
            free_bits: nats of a batch's KL divergences that cost nothing.
            tau_steps: steps of tau alone after each step of all networks.
            tau_optimizer: the optimizer of these extra steps.

        Raises:
            ValueError: if the method does not take the estimator, has no tau for the extra steps,
                or one of the two settings of KL annealing is given without the other.
            TypeError: if an optimizer is not one of Keras 3.
        """
        self.kl_annealing = KLAnnealing(kl_annealing_start, kl_annealing_steps)
        step_gradients.check_options(self.method, gradient, self.kl_annealing, free_bits, tau_steps)
        optimizer = as_optimizer(optimizer)
        super().compile(optimizer=optimizer, jit_compile=False)
        optimizers.build(optimizer, self.trainable_variables)
        self.tau_steps, self.tau_optimizer = tau_steps, None
        if tau_steps:
            self.tau_optimizer = as_optimizer(tau_optimizer)
            self.tau_optimizer.build(self.parameter_groups.eta)
        self._jit_compile = jit_compile
        self._compile_gradients(gradient, free_bits)
        self._make_appliers()
        self._score, self.validation_images = validation.make_scorer(self, jit_compile)

    def _compile_gradients(self, estimator: str, free_bits: FreeBits) -> None:
        function = functools.partial(tf.function, jit_compile=self._jit_compile)
        if self.method.refines:
            compute = functools.partial(step_gradients.refine_and_differentiate, self, estimator)
        else:
            compute = functools.partial(step_gradients.differentiate, self, estimator, free_bits)
        # Only the loop of SVI needs autograph, which takes most of the time of tracing.
        self._differentiate = function(replicas.sharing(compute), autograph=self.method.refines)
        tau = functools.partial(step_gradients.differentiate_tau, self, estimator)
        self._differentiate_tau = function(replicas.sharing(tau), autograph=False)
        # Compiled in the same way as the step, because XLA changes the draws.
        densities = functools.partial(step_gradients.first_densities, self)
        self._first_densities = function(densities, autograph=False)

    def _make_appliers(self) -> None:
        variables = [v for group in self.parameter_groups for v in group]
        self._apply = optimizers.applier(self.optimizer, variables, self._jit_compile)
        if self.tau_optimizer is not None:
            eta = list(self.parameter_groups.eta)
            self._apply_tau = optimizers.applier(self.tau_optimizer, eta, self._jit_compile)

    def set_schedule(self, K: int, inner: float, outer: float, learning_rate: float) -> None:
        """Sets what the schedules prescribe; a new K retraces the step at its next call."""
        # TensorFlow caches a tensor for every Python number that it is given, and over a long
        # run these add up. It caches none for NumPy's numbers.
        self.inner.assign(np.float32(inner))
        self.outer.assign(np.float32(outer))
        for optimizer in self.all_optimizers:
            optimizer.learning_rate = np.float32(learning_rate)
        if self.training_K != K:
            self.training_K = K
            if self.train_function is not None:  # Keras's function has the old K built in
                self.make_train_function(force=True)

    @property
    def all_optimizers(self) -> list[keras.optimizers.Optimizer]:
        """The optimizer of all networks, then that of the extra steps of tau if there are any."""
        return [o for o in (self.optimizer, self.tau_optimizer) if o is not None]

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def set_run_length(self, steps: int) -> None:
        """Sets the step at which a schedule of the learning rate ends.

        Call it before the first step; without it the rate does not fall.
        """
        for optimizer in self.all_optimizers:
            if isinstance(optimizer, optimizers.Adam):
                optimizer.set_run_length(steps)
        self._make_appliers()  # compiled appliers have the old length built in

    def train_step(self, data: tf.Tensor) -> Metrics:
        """Takes one step of gradient ascent on the warmed-up bound of a batch `[B, Dx]`.

        The draw is folded from (seed, step). If a term or a gradient is not finite, the weights
        stay as they are and the metrics show it. The metrics also show weights that the step
        itself has made not finite.
        """
        x = observations.images(data, self.x_dim)
        return self.take_step(
            lambda compute, *arguments: compute(x, *arguments),
            lambda apply, gradients: apply(gradients),
        )

    def take_step(self, run_gradients: Callable, run_update: Callable) -> Metrics:
        """Takes a training step; the two arguments choose the devices of its halves.

        Args:
            run_gradients: calls its first argument, `batch_gradients` or `tau_gradients`, with
                the images and its other arguments; returns the half's metrics and gradients.
            run_update: calls its first argument, `update` or `update_tau`, with the second.
        """
        reported, gradients = run_gradients(self.batch_gradients)
        optimizers.apply_if_finite(reported, functools.partial(run_update, self.update, gradients))
        taken = []
        for i in range(self.tau_steps):
            of_tau, gradients = run_gradients(self.tau_gradients, i)
            finite = optimizers.apply_if_finite(
                reported | of_tau, functools.partial(run_update, self.update_tau, gradients)
            )
            taken.append(tf.cast(finite, tf.float32))
        if taken:  # norms of tau's gradients are not reported: one not finite would end the run
            reported = reported | {"tau_steps": tf.add_n(taken)}
        return reported | self.weight_norm()

    def batch_gradients(self, data: tf.Tensor) -> tuple[Metrics, ParameterGroups]:
        """Returns the metrics of a batch and the gradients of its bound: a step's first half.

        In a replica of a `tf.distribute.Strategy` the batch is a share of the whole one. Both
        results are then those of the whole batch: the same draws, and means over the replicas.
        """
        step = self.optimizer.iterations
        seed = randomness.fold(self.seed, randomness.Purpose.TRAIN, step)
        kl_weight = self.kl_annealing.weight(step)
        warmup = Warmup(tf.convert_to_tensor(self.inner), self.outer * kl_weight)
        reported, gradients = replicas.mean(self.differentiate, data, seed, warmup, self.training_K)
        if tf.distribute.get_replica_context().num_replicas_in_sync > 1:
            reported |= metrics.gradient_norms(gradients)  # of the mean, not the mean of norms
        if self.kl_annealing.steps:
            reported["kl_weight"] = kl_weight
        return reported, gradients

    def differentiate(
        self, x: tf.Tensor, seed: tf.Tensor, warmup: Warmup, K: int, *share: Any
    ) -> tuple[Metrics, ParameterGroups]:
        """Returns the terms and the gradients of a batch: the heavy, compiled part of a step.

        Args:
            x: `[B, Dx]`, or a replica's share of it.
            seed: int32 `[2]`, of the draw.
            warmup: the weights of the terms, scalars.
            K: draws of psi besides psi_0.
            *share: in a replica, the index of its share and the number of replicas.
        """
        return self._differentiate(x, seed, warmup, K, *share)

    def update(self, gradients: ParameterGroups) -> None:
        """Applies what `batch_gradients` returned, the same in every replica: the second half."""
        self._apply([g for group in gradients for g in group])

    def tau_gradients(self, data: tf.Tensor, i: int) -> tuple[Metrics, list[tf.Tensor]]:
        """Returns the gradient of the bound without warm-ups with respect to tau's weights.

        Args:
            data: the batch `[B, Dx]`.
            i: number of the extra step, from 0.

        Returns:
            The norm of the gradient, and the gradient.
        """
        seed = randomness.fold(
            self.seed, randomness.Purpose.TRAIN_TAU, self.optimizer.iterations, i
        )
        gradients = replicas.mean(self._differentiate_tau, data, seed, NO_WARMUP, self.training_K)
        return {"gradient_norm_tau_step": tf.linalg.global_norm(gradients)}, gradients

    def update_tau(self, gradients: list[tf.Tensor]) -> None:
        """Applies what `tau_gradients` returned, the same in every replica."""
        self._apply_tau(gradients)

    def first_densities(self, x: tf.Tensor, seed: tf.Tensor, K: int) -> LogDensities:
        """Returns the log-densities of a step's draw, see `step_gradients.first_densities`."""
        return self._first_densities(x, seed, K)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which the weights are their averages, if the optimizer has any."""
        return optimizers.averaged(self.optimizer, self.trainable_variables)

    def take_averages(self) -> None:
        """Replaces the weights by their averages for good, if the optimizer has any."""
        self.optimizer.finalize_variable_values(self.trainable_variables)

    def weight_norm(self) -> Metrics:
        """Returns the norm of the trained weights; it is not finite if any weight is not."""
        return {"weight_norm": tf.linalg.global_norm([v.value for v in self.trainable_variables])}

    def test_step(self, data: tf.Tensor) -> Metrics:
        """Returns the mean bound of a batch `[B, Dx]` at the full K, without warm-ups."""
        seed = randomness.fold(self.seed, randomness.Purpose.VALIDATE)
        x = observations.images(data, self.x_dim)
        return {"bound": tf.reduce_mean(self.validation_scores(x, seed).log_likelihood)}

    def validation_scores(self, x: tf.Tensor, seed: tf.Tensor) -> ImageScores | RefinedScores:
        """Returns the bound and its diagnostics `[B]` at the fixed counts, without warm-ups."""
        return self._score(x, seed)


def make_vae(config: Config, x_dim: int) -> VAE:
    """Returns the compiled model that a configuration describes, for `x_dim` pixels."""
    m, t = config.method, config.training
    model = VAE(m, config.model, x_dim, t.seed, frozen=bool(t.frozen))
    optimizer = optimizers.make(t, use_ema=t.ema_decay > 0, ema_momentum=t.ema_decay)
    anneals = t.kl_annealing_start < 1 and t.kl_annealing_steps > 0
    model.compile(
        optimizer,
        gradient=m.gradient,
        jit_compile=t.jit_compile == "on",
        kl_annealing_start=t.kl_annealing_start if anneals else 1.0,
        kl_annealing_steps=t.kl_annealing_steps if anneals else 0,
        free_bits=FreeBits(t.inner_free_bits, t.outer_free_bits),
        tau_steps=t.tau_steps,
        tau_optimizer=optimizers.make(t, step=lambda: optimizer.iterations),
    )
    return model
