"""Settings of the bound, its counts and its gradient estimator."""

import dataclasses
import functools

from hvi_tf.config.settings import uses
from hvi_tf.config.settings.fields import MAX_COUNT, setting
from hvi_tf.inference.methods import METHODS

# Learning rate of the inner SVI loop for one image; chosen by measurement (docs/bsvi.md).
DEFAULT_SVI_LEARNING_RATE = 0.1

_method = functools.partial(setting, section="Bound and gradient")
_svi = functools.partial(setting, section="Inner SVI loop (svi, bsvi)", use=uses.REFINING)
_buffer = functools.partial(setting, section="Inner SVI loop (svi, bsvi)", use=uses.BUFFER)


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """A method of the METHODS table, its counts and its gradient estimator.

    Counts and estimator are None until `make` fills in the defaults of the method.
    """

    bound: str = _method(
        "iwhvi",
        "Bound: " + "; ".join(f"{m.name} = {m.summary}" for m in METHODS.values()) + ".",
        main=True,
    )
    K: int = _method(
        None,
        "Draws of psi in addition to psi_0 in validation, and in training where --K_schedule is "
        "empty (by default iwhvi and diwhvi train at K=1). Default: 50 where the bound has a K.",
        0,
        MAX_COUNT,
        main=True,
    )
    M: int = _method(
        None,
        "Draws of z. Default: 5 for iwae, diwhvi, diwhvi-mixture, sivi-equicomp and "
        "sivi-equisample, 1 for the others.",
        1,
        MAX_COUNT,
        main=True,
    )
    L: int = _method(
        None,
        "Draws of zeta from rho(zeta|z) under --prior=hierarchical. Default: 50 there.",
        1,
        MAX_COUNT,
    )
    gradient: str = _method(
        None,
        "Gradient estimator: reparameterized (default, but gdreg for iwhvi and diwhvi, dreg for "
        "diwhvi-mixture); dreg = doubly reparameterized for tau (Sobolev & Vetrov 2019, eq 9); "
        "gdreg = for tau, q and rho; iwae-dreg = for an explicit q; stl = the path of q only; "
        "dreg-biased = for study only.",
        main=True,
    )
    backward_samples: int = _method(
        0,
        "S: the gradient passes through the term of psi_0 and S of the K others, drawn in "
        "proportion to their weights, and through S of the M draws of z. It is unbiased, and "
        "faster where S is far below K. 0: through all.",
        0,
        MAX_COUNT,
        neutral=0,
        use=uses.BACKWARD_SAMPLES,
    )
    defensive: float = _method(
        0.0,
        "Share of q(psi|x) in the mixture from which diwhvi-mixture draws psi. If positive, the "
        "weights are bounded.",
        0.0,
        0.99,
        neutral=0.0,
        use=uses.MIXTURE,
    )
    prior: str = _method(
        None,
        "p(z): normal, or hierarchical (a mixture with networks p(z|zeta) and rho(zeta|z)). "
        "Default: normal, but hierarchical for dsivi and joint.",
    )
    posterior: str = _method(
        "gaussian",
        "Explicit q(z|x) of vae, iwae, svi and bsvi: gaussian, or a Gaussian followed by flows: "
        "iaf or realnvp. svi and bsvi also take hierarchical: q and tau of iwhvi, refined for "
        "each x.",
    )
    svi_steps: int = _svi(
        None,
        "Steps k of the inner SVI loop of svi (default 10) and bsvi (9: a buffer of 10).",
        1,
        MAX_COUNT,
    )
    svi_learning_rate: float = _svi(
        DEFAULT_SVI_LEARNING_RATE,
        "Learning rate of the inner loop, on the ELBO of one image. The rate 0.02 here equals "
        "the rate 1 of a loop on the mean of 50 images.",
        0.0,
    )
    svi_momentum: float = _svi(0.5, "Momentum of the inner loop.", 0.0, 0.999)
    svi_clip_norm: float = _svi(
        1.0, "Largest gradient norm of one image in the inner loop; 0 does not clip.", 0.0
    )
    pi: str = _buffer(
        "uniform",
        "Weights of the proposals of bsvi: uniform, or learned (k+1 logits that all images share).",
        choices=("uniform", "learned"),
    )
    sir: bool = _buffer(
        False,
        "bsvi: takes the gradient of p(x,z) from one proposal, drawn in proportion to its weight "
        "(sampling importance resampling), instead of all k+1.",
    )
    double_sampling: bool = _buffer(
        False, "bsvi: a separate draw drives each step of SVI; the buffer holds another draw."
    )
    encoder_objective: str = _svi(
        "elbo",
        "svi, bsvi: objective of the encoder: elbo (at its own output), or kl (from its output to "
        "the refined Gaussian).",
        choices=("elbo", "kl"),
    )
