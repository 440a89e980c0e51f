"""Export of a trained model as a SavedModel that needs only TensorFlow."""

import pathlib

import tensorflow as tf

from hvi_tf import bounds
from hvi_tf.inference import densities as densities_lib
from hvi_tf.inference import sampling
from hvi_tf.inference.methods import Counts
from hvi_tf.models.vae import VAE
from hvi_tf.storage import files


class ExportedModel(tf.Module):
    """The signatures of the SavedModel; counts are int32 scalars, seeds int32 `[2]`."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        # tf.Module does not track Keras layers, so their variables are listed here.
        self.model_variables = [v.value for v in model.variables]
        pixels, latents = [None, model.x_dim], [None, model.model_config.latent_dim]
        seed = tf.TensorSpec([2], tf.int32, "seed")
        x = tf.TensorSpec(pixels, tf.float32, "x")

        @tf.function(input_signature=[x, seed])
        def encode(x: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"z": model.encode(x, seed)}

        z = tf.TensorSpec(latents, tf.float32, "z")
        kind = "image" if model.autoregressive else "mean"

        @tf.function(input_signature=[z, seed] if model.autoregressive else [z])
        def decode(z: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
            return {kind: model.picture(z, seed)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "n"), seed])
        def sample(n: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            return {kind: model.sample_images(n, seed)}

        M, K = tf.TensorSpec([], tf.int32, "M"), tf.TensorSpec([], tf.int32, "K")

        @tf.function(input_signature=[x, M, K, seed])
        def log_weights(
            x: tf.Tensor, M: tf.Tensor, K: tf.Tensor, seed: tf.Tensor
        ) -> dict[str, tf.Tensor]:
            counts = Counts(K=K, M=M, L=model.counts.L)
            draw = sampling.draw(model.callables, model.method, x, counts, seed)
            densities = densities_lib.log_densities(model.callables, model.method, x, draw)
            return {"log_weights": bounds.outer_log_weights(densities)}

        # `saved_model.load` calls this. A SavedModel stores no Python values. A variable is not
        # possible either: only the chief worker exports, and to make a variable all must join.
        @tf.function(input_signature=[])
        def draws_psi() -> tf.Tensor:
            return tf.constant(model.method.draws_psi)

        self.draws_psi = draws_psi
        self.encode, self.decode = encode, decode
        self.sample, self.log_weights = sample, log_weights


def export(model: VAE, path: pathlib.Path) -> None:
    """Writes the SavedModel; replaces an earlier one only when the new one is complete.

    Signatures, each returning one named tensor:
        encode(x `[B, Dx]`, seed) -> z `[B, Dz]`, a draw from q(z|x).
        decode(z `[B, Dz]`) -> mean `[B, Dx]` of p(x|z). An autoregressive decoder has no mean;
            its signature is decode(z, seed) -> image `[B, Dx]`, a draw.
        sample(n, seed) -> mean or image `[n, Dx]`, at draws z from the prior.
        log_weights(x, M, K, seed) -> `[M, B]`; their log-mean-exp over axis 0 is the method's
            lower bound on log p(x), in nats. For svi and bsvi it is the bound of the encoder
            without refinement. An explicit q(z|x) ignores K. Memory grows with M (K + 1) B.

    Raises:
        UserError: if it cannot be written.
    """
    module = ExportedModel(model)
    signatures = {name: getattr(module, name) for name in SIGNATURES}
    try:
        with files.temporary_folder(path) as folder:
            tf.saved_model.save(module, str(folder), signatures=signatures)
            for part in (folder, *folder.rglob("*")):
                files.sync(part)
            files.replace_folder(folder, path)
    except (tf.errors.OpError, OSError) as error:
        raise files.write_error(path, error) from error


SIGNATURES = ("encode", "decode", "sample", "log_weights")
