"""Settings of the networks."""

import dataclasses
import functools

from hvi_tf.config.settings import uses
from hvi_tf.config.settings.fields import MAX_WIDTH, setting

_network = functools.partial(setting, section="Networks")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the variational autoencoder."""

    hidden: tuple[int, ...] = _network(
        (300, 300),
        "Units of the hidden layers of every network, comma-separated.",
        1,
        MAX_WIDTH,
        use=uses.DENSE,
        main=True,
    )
    latent_dim: int = _network(32, "Dimensions of z.", 1, MAX_WIDTH, main=True)
    aux_dim: int = _network(32, "Dimensions of psi.", 1, MAX_WIDTH, use=uses.HIERARCHICAL)
    prior_dim: int = _network(
        32,
        "Dimensions of zeta under --prior=hierarchical.",
        1,
        MAX_WIDTH,
        use=uses.HIERARCHICAL_PRIOR,
    )
    num_flows: int = _network(
        2, "Flow transformations under --posterior=iaf|realnvp.", 1, 100, use=uses.FLOW
    )
    flow_hidden: tuple[int, ...] = _network(
        (300, 300),
        "Units of the hidden layers of the network of each flow.",
        1,
        MAX_WIDTH,
        use=uses.FLOW,
    )
    scale: str = _network(
        None,
        "Meaning of the encoder's output for the scale of q(z|.): softplus (its inverse), or "
        "log_variance. Default: log_variance for svi and bsvi, softplus for the others.",
        choices=("softplus", "log_variance"),
    )
    likelihood: str = _network(
        "bernoulli",
        "p(x|z) of a pixel: bernoulli (images are binarized at every visit), or "
        "discretized_logistic (the 256 levels of 8-bit images).",
        choices=("bernoulli", "discretized_logistic"),
    )
    encoder: str = _network(
        "mlp", "Encoder: mlp, or resnet (square images).", choices=("mlp", "resnet")
    )
    resnet_channels: tuple[int, ...] = _network(
        (64, 64, 64),
        "Channels of the stages of --encoder=resnet; each stage halves the image.",
        1,
        MAX_WIDTH,
        use=uses.RESNET,
    )
    decoder: str = _network(
        "mlp",
        "Decoder: mlp, or pixelcnn (autoregressive, square images).",
        choices=("mlp", "pixelcnn"),
    )
    pixelcnn_channels: int = _network(
        32, "Channels of --decoder=pixelcnn.", 1, MAX_WIDTH, use=uses.PIXELCNN
    )
    pixelcnn_kernels: tuple[int, ...] = _network(
        (9, 9, 9, 7, 7, 7, 5, 5, 5, 3, 3, 3),
        "Kernel sizes of the layers of --decoder=pixelcnn; odd numbers.",
        3,
        99,
        use=uses.PIXELCNN,
    )
    tau_gate_bias: float | None = _network(
        None,
        "Gives tau a sigmoid gate toward q(psi), and starts its bias at this value. At a value "
        "such as -5 tau starts at the prior. Default: no gate.",
        -1e3,
        1e3,
        use=uses.TAU,
    )
    precision: str = _network(
        "float32",
        "Precision of the factors of matrix products and convolutions: float32, or bfloat16, "
        "which is faster where the hardware has it. Parameters, densities and sums are float32 "
        "in both cases.",
        choices=("float32", "bfloat16"),
        neutral="float32",
    )
