"""The autoencoder as a model: its networks, its densities and its images.

Sobolev & Vetrov 2019, section 6.2 and appendix F; Shu et al. 2019, appendix D.
"""

import functools
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
from hvi_tf.models import architecture, distributions, likelihoods, networks
from hvi_tf.models.architecture import GROUPS
from hvi_tf.runtime import startup


class Autoencoder(keras.Model):
    """A decoder of z with an explicit, flow or hierarchical encoder.

    Args:
        method_config: the row of the method table, its counts, prior and posterior.
        model_config: which networks, and their sizes.
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

    # The callables of `sampling.Model`.

    def conditional(self, psi: tf.Tensor | None, x: tf.Tensor) -> tfd.Distribution:
        """q(z|psi,x), or q(z|x) if psi is None."""
        return self._posterior(psi, self._code(x))

    def _code(self, x: tf.Tensor) -> tf.Tensor:
        """All that the posterior needs of x, computed once however many psi there are."""
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
        """The callables for these observations, whose codes are computed once."""
        code = self._code(x)
        inverse_code = None if self.inverse is None else self.inverse.code(x)
        return self.callables._replace(
            conditional=lambda psi, x: self._posterior(psi, code),
            tau=lambda z, x: self._tau(z, inverse_code),
        )

    def localize(self, x: tf.Tensor) -> LocalModel:
        """The posterior of each observation with local parameters of its own.

        lambda shifts the encoder's output, the same for every psi where q is hierarchical,
        and begins at 0; to SVI that is the same as beginning at the output. tau, which knows
        of x and not of lambda, is asked about z less the shift of its mean: were the shift
        in the mean alone, that would be exact.
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
        """q(psi|x) = N(0, I), with batch shape `[B]`."""
        return distributions.standard_normal([tf.shape(x)[0]], self.model_config.aux_dim)

    def tau(self, z: tf.Tensor, x: tf.Tensor) -> tfd.Distribution:
        """What proposes psi given z and x."""
        return self._tau(z, self.inverse.code(x))

    def _tau(self, z: tf.Tensor, code: tf.Tensor) -> tfd.Distribution:
        outputs = self.inverse.of_code(code, z)
        bias = self.model_config.tau_gate_bias
        if bias is None:
            return networks.gaussian_head(outputs)
        return networks.gated_gaussian_head(outputs, bias)

    def likelihood(self, z: tf.Tensor) -> tfd.Distribution:
        """p(x|z): independent pixels, or each given those before it."""
        if self.autoregressive:
            return likelihoods.Autoregressive(self.decoder, self.pixels, z)
        return self.pixels(self.decoder(z))

    @property
    def autoregressive(self) -> bool:
        """Whether p(x|z) is a PixelCNN, from which images are drawn pixel by pixel."""
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
        """The model as the functions of `sampling` take it."""
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
        """All weights, such as `decoder/0`: names of Keras's differ from model to model."""
        return {
            f"{name}/{i}": variable
            for name, layer in self.networks.items()
            for i, variable in enumerate(layer.variables)
        }

    @property
    def parameter_groups(self) -> ParameterGroups:
        """theta, phi, eta, rho and pi; what is frozen is in none."""
        groups = ParameterGroups([], [], [], [], [])
        for name, layer in self.networks.items():
            getattr(groups, GROUPS[name]).extend(layer.trainable_variables)
        return groups

    @property
    def rows_per_call(self) -> int:
        """Rows of z that the decoder takes at once when it scores or draws images."""
        return architecture.rows_per_call(self.model_config)

    @property
    def refined_images(self) -> int:
        """Images that are refined at once: few enough for a call not to take minutes."""
        return 20 if self.autoregressive else svi_scores.IMAGES

    # Pictures.

    def encode(self, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws z ~ q(z|x) for each observation: `[B, Dx] -> [B, Dz]`."""
        seed = arguments.stateless_seed(seed)
        return sampling.draw(self.callables, self.method, x, Counts(), seed).z[0]

    def decode(self, z: tf.Tensor) -> tf.Tensor:
        """The mean of p(x|z): `[..., Dz] -> [..., Dx]`; not of an autoregressive one."""
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
        """The mean of p(x|z); of an autoregressive one, which has none, a draw `[B, Dx]`.

        Args:
            z: `[B, Dz]`.
            seed: int32 `[2]`, of the draw.
            progress: called with the number of rows drawn so far.
        """
        if self.autoregressive:
            return self.likelihood(z).sample(seed, progress)
        return self.decode(z)
