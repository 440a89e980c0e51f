"""The autoencoder: its networks, its densities and its images.

Sobolev & Vetrov 2019, section 6.2 and appendix F; Shu et al. 2019, appendix D.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from hvi_tf import arguments, randomness
from hvi_tf.config.settings import MethodConfig, ModelConfig
from hvi_tf.inference import methods, priors, sampling
from hvi_tf.inference import refined_scores as svi_scores
from hvi_tf.inference.methods import Counts
from hvi_tf.inference.model import Hierarchy, LocalModel, Model, ParameterGroups
from hvi_tf.inference.svi import SVI
from hvi_tf.models import architecture, distributions, likelihoods, networks
from hvi_tf.models.architecture import GROUPS
from hvi_tf.models.observations import ImageModel
from hvi_tf.runtime import startup


class Autoencoder(ImageModel):
    """A decoder of z with an explicit, flow or hierarchical encoder.

    Args:
        method_config: the method, its counts, prior and posterior.
        model_config: the kinds and sizes of the networks.
        x_dim: pixels of an observation.
        seed: of the initial weights.

    Raises:
        KerasError: if the floatx or the dtype policy of Keras is not float32.
    """

    def __init__(
        self, method_config: MethodConfig, model_config: ModelConfig, x_dim: int, seed: int = 0
    ) -> None:
        startup.check_keras_dtype()
        super().__init__(name="vae")
        self.method = methods.look_up(
            method_config.bound, method_config.posterior, method_config.defensive
        )
        self.method_config, self.model_config = method_config, model_config
        self.counts = Counts(method_config.K, method_config.M, method_config.L)
        self.x_dim = arguments.count("x_dim", x_dim, lowest=1)
        self.seed = arguments.seed(seed)
        self._build_networks(randomness.initializer_seeds(self.seed))
        self.built = True

    def _build_networks(self, rng: np.random.Generator) -> None:
        built = architecture.build(
            self.method, self.method_config, self.model_config, self.x_dim, rng
        )
        self.decoder, self.pixels, self.encoder = (
            built[name] for name in ("decoder", "pixels", "encoder")
        )
        self.features: Any = built.get("features")
        self.flow: Any = built.get("flow")
        self.inverse: Any = built.get("inverse")
        self.prior_decoder: Any = built.get("prior_decoder")
        self.prior_inverse: Any = built.get("prior_inverse")
        self.buffer_weights: Any = built.get("buffer_weights")

    # Callables of `sampling.Model`.

    def conditional(self, psi: tf.Tensor | None, x: tf.Tensor) -> tfd.Distribution:
        """Returns q(z|psi,x), or q(z|x) if psi is None."""
        return self._posterior(psi, self._code(x))

    def _code(self, x: tf.Tensor) -> tf.Tensor:
        """Returns all that the posterior needs of x, computed once for all psi."""
        if self.features is not None:
            x = networks.softplus(self.features(x))
        return self.encoder.code(x) if self.method.hierarchical else self.encoder(x)

    def _posterior(
        self, psi: tf.Tensor | None, code: tf.Tensor, shift: tf.Tensor | None = None
    ) -> tfd.Distribution:
        outputs = code if psi is None else self.encoder.of_code(code, psi)
        if shift is not None:
            outputs += shift
        head = functools.partial(networks.gaussian_head, scale=self.model_config.scale)
        if self.flow is None:
            return head(outputs)
        latents = self.model_config.latent_dim
        return self.flow.distribution(
            head(outputs[..., : 2 * latents]), outputs[..., 2 * latents :]
        )

    def prepare(self, x: tf.Tensor) -> Model:
        """Returns the callables for these observations, whose codes are computed once."""
        code = self._code(x)
        inverse_code = None if self.inverse is None else self.inverse.code(x)
        return self.callables._replace(
            conditional=lambda psi, x: self._posterior(psi, code),
            tau=lambda z, x: self._tau(z, inverse_code),
        )

    def localize(self, x: tf.Tensor) -> LocalModel:
        """Returns the model with local parameters lambda for each observation.

        lambda is a shift of the encoder's output, the same for every psi if q is hierarchical. It
        starts at 0, which for SVI is the same as to start at the output. tau depends on x but not
        on lambda, so it gets z minus the shift of its mean. That is exact if lambda shifts the
        mean alone.
        """
        code = self._code(x)
        local_dim = architecture.local_dim(self.method_config, self.model_config)

        def at(shift: tf.Tensor) -> Model:
            return self.callables._replace(
                conditional=lambda psi, x: self._posterior(psi, code, shift),
                tau=lambda z, x: self.tau(z - shift[..., : self.model_config.latent_dim], x),
            )

        return LocalModel(tf.zeros([tf.shape(x)[0], local_dim]), at)

    def mixing(self, x: tf.Tensor) -> tfd.Distribution:
        """Returns q(psi|x) = N(0, I), with batch shape `[B]`."""
        return distributions.standard_normal([tf.shape(x)[0]], self.model_config.aux_dim)

    def tau(self, z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
        """Returns the inverse model of psi given z and x."""
        return self._tau(z, self.inverse.code(x))

    def _tau(self, z: tf.Tensor, code: tf.Tensor) -> tfd.Distribution:
        outputs = self.inverse.of_code(code, z)
        bias = self.model_config.tau_gate_bias
        if bias is None:
            return networks.gaussian_head(outputs)
        return networks.gated_gaussian_head(outputs, bias)

    def likelihood(self, z: tf.Tensor) -> tfd.Distribution:
        """Returns p(x|z): independent pixels, or each pixel given those before it."""
        if self.autoregressive:
            return likelihoods.Autoregressive(self.decoder, self.pixels, z)
        return self.pixels(self.decoder(z))

    @property
    def autoregressive(self) -> bool:
        """Whether p(x|z) is a PixelCNN, which draws an image pixel by pixel."""
        return self.model_config.decoder == "pixelcnn"

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
    def callables(self) -> Model:
        """The model as a record of callables, for the functions of `inference`."""
        return Model(
            prior=self.prior,
            likelihood=self.likelihood,
            conditional=self.conditional,
            mixing=self.mixing,
            tau=self.tau,
        )

    @property
    def networks(self) -> dict[str, keras.layers.Layer]:
        """The layers that hold all weights, by name."""
        return {name: getattr(self, name) for name in GROUPS if getattr(self, name) is not None}

    @property
    def weights_by_name(self) -> dict[str, keras.Variable]:
        """All weights by names such as `decoder/0`; Keras's own names differ between models."""
        return {
            f"{name}/{i}": variable
            for name, layer in self.networks.items()
            for i, variable in enumerate(layer.variables)
        }

    @property
    def parameter_groups(self) -> ParameterGroups:
        """theta, phi, eta, rho and pi, without frozen weights."""
        groups = ParameterGroups([], [], [], [], [])
        for name, layer in self.networks.items():
            getattr(groups, GROUPS[name]).extend(layer.trainable_variables)
        return groups

    def svi_settings(self, K: int | None = None, steps: int | None = None) -> SVI:
        """Returns the settings of training's inner loop, with another K or number of steps."""
        c = self.method_config
        return SVI(
            steps=steps or c.svi_steps,
            learning_rate=c.svi_learning_rate,
            momentum=c.svi_momentum,
            clip_norm=c.svi_clip_norm,
            double_sampling=c.double_sampling,
            K=self.counts.K if K is None else K,
            L=self.counts.L,
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

    @property
    def rows_per_call(self) -> int:
        """How many rows of z the decoder takes in one call that scores or draws images."""
        return architecture.rows_per_call(self.model_config)

    @property
    def refined_images(self) -> int:
        """How many images are refined in one call, which must not take minutes."""
        return 20 if self.autoregressive else svi_scores.IMAGES

    # Images.

    def encode(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws z ~ q(z|x) for each observation: `[B, Dx] -> [B, Dz]`."""
        seed = arguments.stateless_seed(seed)
        return sampling.draw(self.callables, self.method, x, Counts(), seed).z[0]

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the mean of p(x|z): `[..., Dz] -> [..., Dx]`; not if it is autoregressive."""
        return self.likelihood(z).mean()

    def reconstruct(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns an image of a draw from q(z|x), see `picture`: `[B, Dx] -> [B, Dx]`."""
        z_seed, x_seed = tf.unstack(tf.random.split(arguments.stateless_seed(seed), 2))
        return self.picture(self.encode(x, z_seed), x_seed)

    def sample_images(
        self, n: int | tf.Tensor, seed: tf.Tensor, progress: Callable[[int], None] | None = None
    ) -> tf.Tensor:
        """Returns images of `n` draws from the prior, see `picture`: `[n, Dx]`."""
        n = arguments.count_or_tensor("n", n, lowest=1)
        z_seed, x_seed = tf.unstack(tf.random.split(arguments.stateless_seed(seed), 2))
        z = priors.adapt(self.prior).sample(n, z_seed)[0]
        return self.picture(z, x_seed, progress)

    def picture(
        self, z: tf.Tensor, seed: tf.Tensor, progress: Callable[[int], None] | None = None
    ) -> tf.Tensor:
        """Returns the mean of p(x|z), `[B, Dx]`; a draw if it is autoregressive, without a mean.

        Args:
            z: `[B, Dz]`.
            seed: int32 `[2]`, of the draw.
            progress: called with the number of pixel rows drawn so far.
        """
        if self.autoregressive:
            return self.likelihood(z).sample(seed, progress)
        return self.decode(z)
