"""The table of methods: every bound is a row of settings, never a copy of a formula.

All rows share the formula in `bounds.bound`. A row decides where psi_1:K and zeta_1:L come
from, and which of the counts K, M and L the user may choose.
"""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union

from hvi_tf import arguments

if TYPE_CHECKING:
    import tensorflow as tf

Integer = Union[int, "tf.Tensor"]
Weight = Union[float, "tf.Tensor"]

# Default number of z that share psi in an evaluation. With more of them, each z has fewer of
# the K psi near it.
MIXTURE_SIZE = 1_000


class Counts(NamedTuple):
    """Numbers of draws.

    Attributes:
        K: psi besides the psi_0 that generated z.
        M: z.
        L: zeta for each z, under a hierarchical prior.
    """

    K: Integer = 0
    M: Integer = 1
    L: Integer = 1


class Warmup(NamedTuple):
    """Weights in [0, 1] of two terms of the bound. Below 1 the value is no bound.

    Attributes:
        inner: c_in, of log q(psi|x) - log tau(psi|z,x).
        outer: c_out, of log p(z) - log q(z|x).
    """

    inner: Weight = 1.0
    outer: Weight = 1.0


NO_WARMUP = Warmup()


class Count(NamedTuple):
    """A number of draws that a method either leaves to the user or fixes."""

    default: int
    free: bool


class FixedCountError(ValueError):
    """A count that the method fixes was given another value.

    Attributes:
        name: K, M or L.
        value: the value that was given.
        fixed: the value that the method fixes.
    """

    def __init__(self, method: "Method", name: str, value: int, fixed: int) -> None:
        super().__init__(
            f"{name}={value}: bound={method.name!r} with this prior fixes {name}={fixed}"
        )
        self.name, self.value, self.fixed = name, value, fixed


def _fixed(count: int) -> Count:
    return Count(count, free=False)


def _free(count: int) -> Count:
    return Count(count, free=True)


class Method(NamedTuple):
    """One row of the table (Sobolev & Vetrov 2019, section 2 and appendix B).

    Attributes:
        name: the value of `--bound`.
        summary: one line for `--help`.
        psi: the proposal of psi_1:K given z, which stands for tau in the formula:
            `tau`: a trained tau(psi|z,x);
            `tau mixture`: the mean over m of tau(psi|z_m,x), a density of psi given z_1:M;
            `mixing`: tau := q(psi|x);
            `prior`: tau := p(zeta), of a prior whose zeta is q's psi;
            `none`: q(z|x) is explicit, there is no psi.
        gradients: the estimators that apply (`gradients.ESTIMATORS`), the default first.
        shared: whether psi_1:K are drawn for each z (`no`), or drawn once and used for
            every z: K of them (`K`), or M K of them (`MK`).
        zeta: the proposal of zeta_1:L given z, which stands for rho under a hierarchical prior:
            `rho`: a trained rho(zeta|z); an explicit prior is also allowed;
            `rho mixture`: the mean over m of rho(zeta|z_m); an explicit prior is also allowed;
            `prior`: rho := p(zeta);
            `psi_0`: zeta is the psi that generated z, and rho := p(zeta).
        K: draws of psi besides the psi_0 that generated z.
        M: draws of z in the multisample bound.
        L: draws of zeta per z under a hierarchical prior; 1 with an explicit prior.
        buffer: which proposals of an inner SVI loop enter the bound (Shu et al. 2019):
            `none`: there is no such loop;
            `last`: the refined one alone;
            `all`: every one on the way, weighted by pi.
        defensive: the share of q(psi|x) in a mixture of tau's, from 0 to below 1.
        mixture_size: the largest number of z that share psi in an evaluation. More z are
            scored in groups, each with K psi of its own. 0: all M share.
    """

    name: str
    summary: str
    psi: Literal["none", "tau", "tau mixture", "mixing", "prior"]
    gradients: tuple[str, ...]
    shared: Literal["no", "K", "MK"] = "no"
    zeta: Literal["rho", "rho mixture", "prior", "psi_0"] = "rho"
    K: Count = _fixed(0)
    M: Count = _fixed(1)
    L: Count = _free(50)
    buffer: Literal["none", "last", "all"] = "none"
    defensive: float = 0.0
    mixture_size: int = 0

    @property
    def hierarchical(self) -> bool:
        """Whether q(z|x) = int q(z|psi,x) q(psi|x) dpsi; otherwise q(z|x) is explicit."""
        return self.psi != "none"

    @property
    def draws_psi(self) -> bool:
        """Whether more psi are drawn for each z, besides the psi_0 that generated it."""
        return self.has_tau or self.psi_from_mixing

    @property
    def has_tau(self) -> bool:
        """Whether there is a network for tau(psi|z,x)."""
        return self.has_own_tau or self.mixes

    @property
    def has_own_tau(self) -> bool:
        """Whether psi_1:K of a z come from the tau(psi|z,x) of this z alone."""
        return self.psi == "tau"

    @property
    def mixes(self) -> bool:
        """Whether psi_1:K come from the mixture of the tau's of several z."""
        return self.psi == "tau mixture"

    @property
    def psi_from_mixing(self) -> bool:
        """Whether tau := q(psi|x), so that the two cancel."""
        return self.psi == "mixing"

    @property
    def psi_from_prior(self) -> bool:
        """Whether tau := p(zeta), of a prior whose zeta is q's psi."""
        return self.psi == "prior"

    @property
    def shares_psi(self) -> bool:
        """Whether all z are scored at the same psi_1:K."""
        return self.shared != "no"

    @property
    def shares_zeta(self) -> bool:
        """Whether all z are scored at the same zeta_1:L, under a hierarchical prior."""
        return self.zeta == "rho mixture"

    @property
    def has_rho(self) -> bool:
        """Whether there is a network for rho(zeta|z), if the prior is hierarchical."""
        return self.zeta in ("rho", "rho mixture")

    @property
    def zeta_from_prior(self) -> bool:
        """Whether rho := p(zeta), with draws of its own."""
        return self.zeta == "prior"

    @property
    def zeta_is_psi_0(self) -> bool:
        """Whether zeta is the psi that generated z."""
        return self.zeta == "psi_0"

    @property
    def needs_hierarchical_prior(self) -> bool:
        """Whether the method is defined for p(z) = int p(z|zeta) p(zeta) dzeta only."""
        return not self.has_rho

    @property
    def refines(self) -> bool:
        """Whether an inner SVI loop refines the proposal for each observation."""
        return self.buffer != "none"

    @property
    def scores_last_proposal(self) -> bool:
        """Whether only the last proposal of the SVI loop enters the bound."""
        return self.buffer == "last"

    @property
    def weights_proposals(self) -> bool:
        """Whether all proposals of the SVI loop enter the bound, weighted by pi."""
        return self.buffer == "all"

    @property
    def takes_backward_samples(self) -> bool:
        """Whether the bound has a sum over k or m, for a gradient through some of its terms.

        A mixture depends on every z, so no term can be left out.
        """
        return not self.mixes and not self.refines and (self.K.free or self.M.free)

    @property
    def trains_tau(self) -> bool:
        """Whether psi_1:K come from a trained tau, so that log q(psi|x) - log tau is not 0.

        Methods that refine do not count: their settings of training are others.
        """
        return not self.refines and self.has_tau

    def psi_per_z(self, counts: Counts) -> Integer:
        """Returns how many psi besides psi_0 score each z: K, or M K where all are shared."""
        return counts.M * counts.K if self.shared == "MK" else counts.K

    def counts(
        self, hierarchical_prior: bool, K: Any = None, M: Any = None, L: Any = None
    ) -> Counts:
        """Returns the counts, with the method's defaults where None is given.

        Args:
            hierarchical_prior: whether p(z) is hierarchical; otherwise L is 1.
            K: draws of psi besides psi_0.
            M: draws of z.
            L: draws of zeta.

        Raises:
            FixedCountError: a ValueError, if a count differs from the one that is fixed.
            ValueError: if a count is no whole number or is too small.
        """
        allowed = self._replace(L=self.L if hierarchical_prior else _fixed(1))
        chosen = {}
        for name, given in (("K", K), ("M", M), ("L", L)):
            count = getattr(allowed, name)
            value = count.default if given is None else given
            value = arguments.count(name, value, lowest=0 if name == "K" else 1)
            if not count.free and value != count.default:
                raise FixedCountError(self, name, value, count.default)
            chosen[name] = value
        return Counts(**chosen)

    def check_gradient(self, gradient: Any, name: str = "gradient") -> None:
        """Raises ValueError unless the method takes the estimator.

        Args:
            gradient: a key of `gradients.ESTIMATORS`.
            name: of the argument, for the message.
        """
        if gradient not in self.gradients:
            raise ValueError(
                f"{name}={arguments.shown(gradient)}: bound={self.name!r} takes "
                + ", ".join(self.gradients)
            )


# In a hierarchy psi_0 and psi_1:K trade places in the bound, which is what makes doubly
# reparameterized gradients for phi possible; a psi shared by several z does not.
_EXPLICIT = ("reparameterized", "stl", "iwae-dreg")
_NO_TAU = ("reparameterized", "stl", "gdreg")
_PATH_ONLY = ("reparameterized", "stl")
_TAU_AT_K_0 = ("reparameterized", "stl", "dreg", "gdreg")
_OF_TAU = (*_TAU_AT_K_0, "dreg-biased")
# Without the noise of phi's direct terms a step is worth more.
_TAU = ("gdreg", *(name for name in _OF_TAU if name != "gdreg"))
# The unbiased ones: stl is biased for M > 1, gdreg needs psi_0 and psi_k that trade places.
_TAU_MIXTURE = ("dreg", "reparameterized")

_ROWS = (
    Method("vae", "explicit q(z|x), one sample: the ELBO", "none", _EXPLICIT),
    Method("iwae", "explicit q(z|x), M samples", "none", _EXPLICIT, M=_free(5)),
    Method("hvm", "auxiliary variables: tau scores psi_0 alone", "tau", _TAU_AT_K_0),
    Method(
        "sivi",
        "semi-implicit: K more psi from q(psi|x), no tau",
        "mixing",
        _NO_TAU,
        K=_free(50),
        M=_free(1),
    ),
    Method(
        "sivi-equicomp",
        "sivi with the same K psi for all M z",
        "mixing",
        _PATH_ONLY,
        shared="K",
        K=_free(50),
        M=_free(5),
    ),
    Method(
        "sivi-equisample",
        "sivi with the same M K psi for all M z",
        "mixing",
        _PATH_ONLY,
        shared="MK",
        K=_free(50),
        M=_free(5),
    ),
    Method(
        "dsivi",
        "sivi under a hierarchical prior, L zeta from p(zeta)",
        "mixing",
        _NO_TAU,
        zeta="prior",
        K=_free(50),
    ),
    Method(
        "joint",
        "p(x,z,psi_0) against q(z,psi_0|x), for a prior with q's structure",
        "prior",
        _NO_TAU,
        zeta="psi_0",
        L=_fixed(1),
    ),
    Method("iwhvi", "K more psi from tau(psi|z,x)", "tau", _TAU, K=_free(50)),
    Method("diwhvi", "iwhvi inside an M-sample bound", "tau", _TAU, K=_free(50), M=_free(5)),
    Method(
        "diwhvi-mixture",
        "diwhvi with the same K psi for all M z, from the mixture of their tau's",
        "tau mixture",
        _TAU_MIXTURE,
        shared="K",
        zeta="rho mixture",
        K=_free(50),
        M=_free(5),
        mixture_size=MIXTURE_SIZE,
    ),
    Method("svi", "the ELBO after k steps of SVI for each x", "none", _PATH_ONLY, buffer="last"),
    Method(
        "bsvi",
        "all proposals on the way of k steps of SVI in one bound",
        "none",
        _PATH_ONLY,
        buffer="all",
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ROWS}


def look_up(
    bound: Any,
    posterior: str = "gaussian",
    defensive: float = 0.0,
    mixture_size: int = MIXTURE_SIZE,
) -> Method:
    """Returns the method that a bound and a posterior name.

    svi and bsvi refine an explicit posterior or a hierarchical one. For a hierarchical
    posterior, log q(z|x) is estimated by the U_K of iwhvi.

    Args:
        bound: a key of `METHODS`.
        posterior: `hierarchical`, or an explicit one. Only svi and bsvi depend on it.
        defensive: the share of q(psi|x) in a mixture of tau's. Others ignore it.
        mixture_size: the largest number of z that share a mixture. Others ignore it.

    Raises:
        ValueError: if there is no such method.
    """
    if not isinstance(bound, str) or bound not in METHODS:
        raise ValueError(
            f"bound={arguments.shown(bound)}: unknown; choose one of {', '.join(METHODS)}"
        )
    method = METHODS[bound]
    if method.mixes:
        return method._replace(defensive=defensive, mixture_size=mixture_size)
    if method.refines and posterior == "hierarchical":
        iwhvi = METHODS["iwhvi"]
        return method._replace(psi=iwhvi.psi, gradients=_OF_TAU, K=iwhvi.K)
    return method
