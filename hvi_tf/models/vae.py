"""How the autoencoder is trained and validated: one step, for every row of the table."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.config.config import Config
from hvi_tf.config.settings import MethodConfig, ModelConfig
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import (
    gradients,
    plans,
    sampling,
    svi_gradients,
)
from hvi_tf.inference import (
    image_scores as log_likelihood,
)
from hvi_tf.inference import (
    refined_scores as svi_scores,
)
from hvi_tf.inference.ascent import as_optimizer
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.methods import Counts, Warmup
from hvi_tf.inference.model import ParameterGroups
from hvi_tf.inference.objective import NO_FREE_BITS, FreeBits, Objective
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.inference.svi import SVI
from hvi_tf.models import metrics, observations, optimizers
from hvi_tf.models import replica_noise as replicas
from hvi_tf.models.architecture import GROUPS
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.models.metrics import Metrics


class VAE(Autoencoder):
    """The autoencoder with its training step.

    `train_step` is the one definition of a training step; `keras.Model.fit` and the
    command line both run it. The schedule values are attributes (`set_schedule`).

    Args:
        method_config: the row of the method table, its counts, prior and posterior; its K
            is that of validation, and of training until `set_schedule`.
        model_config: which networks, and their sizes.
        x_dim: pixels of an observation.
        seed: the run's seed, from 0 to 2^31 - 1; also of the initial weights.
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
        super().__init__(method_config, model_config, x_dim, seed)
        self.K, self.M, self.L = method_config.K, method_config.M, method_config.L
        self.training_K = self.K
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
            optimizer: of all networks; of Keras 3, or its class or name. With `use_ema` it
                averages the weights, see `averaged`.
            gradient: a key of `gradients.ESTIMATORS` that the row takes.
            jit_compile: whether to use XLA for the forward and backward pass, and on one device
                for the optimizer.
            kl_annealing_start: weight of log p(z) - log q(z|x) at step 0.
            kl_annealing_steps: after which that weight, having risen linearly, is 1.
            free_bits: nats of a batch's KL divergences that cost nothing.
            tau_steps: steps of tau alone after each step of all networks.
            tau_optimizer: of those.

        Raises:
            ValueError: if the row does not take the estimator, has no tau for the extra steps,
                or one of the two settings of KL annealing is given without the other.
            TypeError: if an optimizer is not one of Keras 3.
        """
        if gradient not in self.method.gradients:
            others = ", ".join(self.method.gradients)
            raise ValueError(f"gradient={gradient!r}: bound={self.method.name!r} takes {others}")
        if (kl_annealing_start < 1) != (kl_annealing_steps > 0):
            raise ValueError(
                f"kl_annealing_start={kl_annealing_start}, kl_annealing_steps="
                f"{kl_annealing_steps}: give a start below 1 and steps above 0, or neither"
            )
        if free_bits != NO_FREE_BITS and self.method.refines:
            raise ValueError(f"{free_bits}: bound={self.method.name!r} has no free bits")
        if tau_steps and not self.method.trains_tau:
            raise ValueError(f"tau_steps={tau_steps}: bound={self.method.name!r} trains no tau")
        optimizer = as_optimizer(optimizer)
        super().compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(self.trainable_variables)
        if optimizer.use_ema:  # Keras starts them at 0 and mends that at the very first step
            averages = optimizer._model_variables_moving_average
            for average, variable in zip(averages, self.trainable_variables, strict=True):
                average.assign(variable)
        self.estimator, self.free_bits = gradient, free_bits
        self._kl_annealing = kl_annealing_start, kl_annealing_steps
        compute = self._refine_and_differentiate if self.method.refines else self._differentiate
        # Only the loop of SVI needs autograph, which takes most of the time of tracing.
        autograph = self.method.refines
        self._ascend = tf.function(
            replicas.sharing(compute), jit_compile=jit_compile, autograph=autograph
        )
        self.tau_steps, self.tau_optimizer = tau_steps, None
        if tau_steps:
            self.tau_optimizer = as_optimizer(tau_optimizer)
            self.tau_optimizer.build(self.parameter_groups.eta)
            self._ascend_tau = tf.function(
                replicas.sharing(self._differentiate_tau), jit_compile=jit_compile, autograph=False
            )
        self._jit_compile = jit_compile
        self._make_appliers()
        self._score = self._make_scorer(jit_compile)
        # Compiled as the step is, for the draws depend on that.
        self.first_densities = tf.function(
            self._first_densities, jit_compile=jit_compile, autograph=False
        )

    def _make_appliers(self) -> None:
        variables = [v for group in self.parameter_groups for v in group]
        self._apply = optimizers.applier(self.optimizer, variables, self._jit_compile)
        if self.tau_optimizer is not None:
            eta = list(self.parameter_groups.eta)
            self._apply_to_tau = optimizers.applier(self.tau_optimizer, eta, self._jit_compile)

    def set_schedule(self, K: int, inner: float, outer: float, learning_rate: float) -> None:
        """Sets what the schedules prescribe; a new K retraces the step at its next call."""
        # TensorFlow keeps a tensor of every Python number it was ever given, for the next time;
        # over a long run these add up. Of NumPy's numbers it keeps none.
        self.inner.assign(np.float32(inner))
        self.outer.assign(np.float32(outer))
        for optimizer in self.all_optimizers:
            optimizer.learning_rate = np.float32(learning_rate)
        if self.training_K != K:
            self.training_K = K
            if self.train_function is not None:  # Keras's own, which has the old K built in
                self.make_train_function(force=True)

    @property
    def all_optimizers(self) -> list[keras.optimizers.Optimizer]:
        """That of all networks, and that of the extra steps of tau if there are any."""
        return [o for o in (self.optimizer, self.tau_optimizer) if o is not None]

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def set_run_length(self, steps: int) -> None:
        """Sets the step at which a schedule of the learning rate ends; before the first step.

        Without it the rate does not fall.
        """
        for optimizer in self.all_optimizers:
            if isinstance(optimizer, optimizers.Adam):
                optimizer.set_run_length(steps)
        self._make_appliers()  # those that are compiled have the old length built in

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, on images that the likelihood supports.

        Raises:
            ValueError: if images have other values, such as gray ones under a Bernoulli
                likelihood, another shape, or labels.
        """
        observations.refuse_extras(
            sample_weight=kwargs.get("sample_weight"), class_weight=kwargs.get("class_weight")
        )
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = self._checked("validation_data", kwargs["validation_data"])
        return super().fit(self._checked("x", x), *args, **kwargs)

    def evaluate(self, x: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Scores as `keras.Model.evaluate` does; raises ValueError as `fit` does."""
        if not kwargs.get("_use_cached_eval_dataset"):  # which `fit` has checked already
            x = self._checked("x", x)
        return super().evaluate(x, *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes a step as `keras.Model.train_on_batch` does; raises ValueError as `fit` does."""
        return super().train_on_batch(self._checked("x", x), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Scores as `keras.Model.test_on_batch` does; raises ValueError as `fit` does."""
        return super().test_on_batch(self._checked("x", x), *args, **kwargs)

    def _checked(self, name: str, data: Any) -> Any:
        return observations.checked(name, data, self.x_dim, self.pixels)

    def train_step(self, data: tf.Tensor) -> Metrics:
        """One step of gradient ascent on the warmed-up bound of a batch `[B, Dx]`.

        The draw is folded from (seed, step). If a term or a gradient is not finite the
        weights stay as they are, and the metrics tell; so they do of weights that the step
        itself has spoiled.
        """
        x = observations.images(data, self.x_dim)
        return self.take_step(
            lambda ascent, *arguments: ascent(x, *arguments),
            lambda climb, direction: climb(direction),
        )

    def take_step(self, ascend: Callable, climb: Callable) -> Metrics:
        """A training step; its two arguments say on which devices its halves run.

        Args:
            ascend: calls a first half, `ascent` or `tau_ascent`, with its images and the further
                arguments given here; returns the half's metrics and direction.
            climb: calls a second half with that direction.
        """
        reported, direction = ascend(self.ascent)
        if_finite(reported, functools.partial(climb, self.climb, direction))
        taken = []
        for i in range(self.tau_steps):
            of_tau, direction = ascend(self.tau_ascent, i)
            finite = if_finite(
                reported | of_tau, functools.partial(climb, self.tau_climb, direction)
            )
            taken.append(tf.cast(finite, tf.float32))
        if taken:  # the others are left out, for their gradients are not finite
            reported = reported | {"tau_steps": tf.add_n(taken)}
        return reported | self.weight_norm()

    def ascent(self, data: tf.Tensor) -> tuple[Metrics, ParameterGroups]:
        """The first half of a step: what a batch says, and which way is up.

        In a replica of a `tf.distribute.Strategy`, whose batch is a share of the whole one,
        both are those of the whole batch: the same draws, and means over the replicas.
        """
        step = self.optimizer.iterations
        seed = randomness.fold(self.seed, randomness.Purpose.TRAIN, step)
        kl_weight = self._kl_weight(step)
        weights = self.inner, self.outer * kl_weight
        reported, ascent = replicas.mean(self._ascend, data, seed, *weights, self.training_K)
        if tf.distribute.get_replica_context().num_replicas_in_sync > 1:
            reported |= metrics.gradient_norms(ascent)  # of the mean, not the mean of norms
        if self._kl_annealing[1]:
            reported["kl_weight"] = kl_weight
        return reported, ascent

    def climb(self, ascent: ParameterGroups) -> None:
        """The second half: applies what `ascent` returned, the same in every replica."""
        self._apply([g for group in ascent for g in group])

    def tau_ascent(self, data: tf.Tensor, i: int) -> tuple[Metrics, list[tf.Tensor]]:
        """The first half of an extra step of tau: the gradient of the bound without warm-ups.

        Args:
            data: the batch `[B, Dx]`.
            i: number of the extra step, from 0.

        Returns:
            The norm of the gradient, and the gradient.
        """
        seed = randomness.fold(
            self.seed, randomness.Purpose.TRAIN_TAU, self.optimizer.iterations, i
        )
        ascent = replicas.mean(self._ascend_tau, data, seed, 1.0, 1.0, self.training_K)
        return {"gradient_norm_tau_step": tf.linalg.global_norm(ascent)}, ascent

    def tau_climb(self, ascent: list[tf.Tensor]) -> None:
        """The second half: applies what `tau_ascent` returned, the same in every replica."""
        self._apply_to_tau(ascent)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the weights their averages while entered, if the optimizer makes any."""
        if not self.optimizer.use_ema:
            yield
            return
        raw = [tf.identity(v.value) for v in self.trainable_variables]
        self.take_averages()
        try:
            yield
        finally:
            for variable, value in zip(self.trainable_variables, raw, strict=True):
                variable.assign(value)

    def take_averages(self) -> None:
        """Gives the weights their averages for good, if the optimizer makes any."""
        self.optimizer.finalize_variable_values(self.trainable_variables)

    def weight_norm(self) -> Metrics:
        """The norm of what is trained; not finite if any weight is not."""
        return {"weight_norm": tf.linalg.global_norm([v.value for v in self.trainable_variables])}

    def _first_densities(self, x: tf.Tensor, seed: tf.Tensor, K: int) -> LogDensities:
        """The log-densities of a step's draw; of a refining row that at the encoder's output.

        Args:
            x: the step's whole batch `[B, Dx]`.
            seed: int32 `[2]`, the step's.
            K: draws of psi besides psi_0.
        """
        if not self.method.refines:
            model, M = self.prepare(x), self.M
        else:
            local = self.localize(x)
            model, M, seed = local.at(local.start), 1, tf.random.fold_in(seed, 0)
        sample = sampling.draw(model, self.method, x, Counts(K=K, M=M, L=self.L), seed)
        return densities_lib.log_densities(model, self.method, x, sample)

    def _kl_weight(self, step: tf.Tensor) -> tf.Tensor:
        start, steps = self._kl_annealing
        done = tf.cast(step, tf.float32) / max(steps, 1) if steps else tf.constant(1.0)
        return start + (1.0 - start) * tf.minimum(done, 1.0)

    def _differentiate(
        self, x: tf.Tensor, seed: tf.Tensor, inner: tf.Tensor, outer: tf.Tensor, K: int
    ) -> tuple[Metrics, ParameterGroups]:
        objective, ascent = self._value_and_gradients(
            x, self.parameter_groups, K, seed, Warmup(inner, outer), self.free_bits
        )
        return {**metrics.of_objective(objective, K), **metrics.gradient_norms(ascent)}, ascent

    def _differentiate_tau(
        self, x: tf.Tensor, seed: tf.Tensor, inner: tf.Tensor, outer: tf.Tensor, K: int
    ) -> list[tf.Tensor]:
        eta = ParameterGroups(eta=self.parameter_groups.eta)
        _, ascent = self._value_and_gradients(x, eta, K, seed, Warmup(inner, outer))
        return list(ascent.eta)

    def _value_and_gradients(
        self,
        x: tf.Tensor,
        variables: ParameterGroups,
        K: int,
        seed: tf.Tensor,
        warmup: Warmup,
        free_bits: FreeBits = NO_FREE_BITS,
    ) -> tuple[Objective, ParameterGroups]:
        return gradients.value_and_gradients(
            self.prepare,
            self.method,
            x,
            variables,
            Counts(K, self.M, self.L),
            seed,
            estimator=self.estimator,
            warmup=warmup,
            backward_samples=self.method_config.backward_samples,
            free_bits=free_bits,
        )

    def _refine_and_differentiate(
        self, x: tf.Tensor, seed: tf.Tensor, inner: tf.Tensor, outer: tf.Tensor, K: int
    ) -> tuple[Metrics, ParameterGroups]:
        del inner  # the configuration refuses an inner warm-up here
        log_pi = self.log_pi
        refined, ascent = svi_gradients.value_and_gradients(
            self.localize,
            self.method,
            x,
            self.parameter_groups,
            settings=self.svi_settings(K),
            seed=seed,
            log_pi=log_pi,
            # All of pi on one proposal leaves one to draw.
            sir=self.method_config.sir or self.method.scores_last_proposal,
            encoder_objective=self.method_config.encoder_objective,
            estimator=self.estimator,
            kl_weight=outer,
        )
        reported = metrics.of_refined(refined, log_pi, outer)
        return {**reported, **metrics.gradient_norms(ascent)}, ascent

    def svi_settings(self, K: int | None = None, steps: int | None = None) -> SVI:
        """The inner loop of training, but for these."""
        c = self.method_config
        return SVI(
            steps=steps or c.svi_steps,
            learning_rate=c.svi_learning_rate,
            momentum=c.svi_momentum,
            clip_norm=c.svi_clip_norm,
            double_sampling=c.double_sampling,
            K=self.K if K is None else K,
            L=self.L,
        )

    @property
    def log_pi(self) -> tf.Tensor:
        """Log pi `[k+1]` of the inner loop's proposals."""
        count = self.method_config.svi_steps + 1
        if self.method.scores_last_proposal:
            return tf.math.log(tf.one_hot(count - 1, count))
        if self.buffer_weights is None:
            return tf.fill([count], -math.log(count))
        return self.buffer_weights.log_probabilities()

    # Validation.

    def test_step(self, data: tf.Tensor) -> Metrics:
        """The bound without warm-ups at the full K, of a batch `[B, Dx]`."""
        seed = randomness.fold(self.seed, randomness.Purpose.VALIDATE)
        x = observations.images(data, self.x_dim)
        return {"bound": tf.reduce_mean(self.validation_scores(x, seed).log_likelihood)}

    def _make_scorer(self, jit_compile: bool) -> Callable[[tf.Tensor, tf.Tensor], Any]:
        if not self.method.refines:
            plan = plans.make(
                self.method, Counts(K=self.K, M=self.M, L=self.L), rows=self.rows_per_call
            )
            self.validation_images = plan.images
            return log_likelihood.make_scorer(self.prepare, self.method, plan, jit_compile)
        self.validation_images = self.refined_images
        score = svi_scores.make_scorer(
            self.localize, self.method, self.svi_settings(), jit_compile=jit_compile
        )
        return lambda x, seed: score(x, seed, self.log_pi)

    def validation_scores(self, x: tf.Tensor, seed: tf.Tensor) -> ImageScores | RefinedScores:
        """The bound and its diagnostics at the fixed counts, without warm-ups, `[B]`."""
        return self._score(x, seed)


def if_finite(reported: Metrics, climb: Callable[[], None]) -> tf.Tensor:
    """Climbs if a step's terms and gradients are all finite; else the weights stay.

    Returns:
        Whether they are.
    """
    finite = tf.reduce_all([tf.math.is_finite(m) for m in reported.values()])

    def climbed() -> tf.Tensor:
        climb()
        return finite

    return tf.cond(finite, climbed, lambda: finite)


def make_vae(config: Config, x_dim: int) -> VAE:
    """The compiled model that a configuration describes, for observations of `x_dim` pixels."""
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
