"""The table of methods: each is a set of choices within one formula, `bounds.bound`.

A method decides where psi_1:K and zeta_1:L come from, and which of the counts K, M and L the
user may choose.
"""

from typing import Literal, NamedTuple

from hvi_tf import arguments
from hvi_tf.inference.counts import Count, Counts, FixedCountError, Integer

# Default number of z that share psi in an evaluation. With more z, fewer of the K psi are near
# each z.
MIXTURE_SIZE = 1_000


def _fixed(count: int) -> Count:
    """Returns a count that the user cannot choose."""
    return Count(count, free=False)


def _free(count: int) -> Count:
    """Returns a count that the user may choose, with its default."""
    return Count(count, free=True)


class Method(NamedTuple):
    """The choices that distinguish one bound (Sobolev & Vetrov 2019, section 2, appendix B).

    Attributes:
        name: the key in `METHODS`.
        summary: a description in one line.
        psi: the proposal of psi_1:K given z, which is tau in the formula:
            `tau`: a trained tau(psi|z,x);
            `tau mixture`: the mean over m of tau(psi|z_m,x), a density of psi given z_1:M;
            `mixing`: tau := q(psi|x);
            `prior`: tau := p(zeta), for a prior whose zeta is the psi of q;
            `none`: q(z|x) is explicit and there is no psi.
        gradients: the estimators that apply (`gradients.ESTIMATORS`), the default first.
        shared: `no` if psi_1:K are drawn for each z. Otherwise psi are drawn once for all z:
            K draws (`K`) or M K draws (`MK`).
        zeta: the proposal of zeta_1:L given z, which is rho under a hierarchical prior:
            `rho`: a trained rho(zeta|z); an explicit prior is also allowed;
            `rho mixture`: the mean over m of rho(zeta|z_m); an explicit prior is also allowed;
            `prior`: rho := p(zeta);
            `psi_0`: zeta is the psi that generated z, and rho := p(zeta).
        K: draws of psi for each z, in addition to the psi_0 that generated it.
        M: draws of z in the multisample bound.
        L: draws of zeta for each z under a hierarchical prior; 1 with an explicit prior.
        buffer: the proposals of an inner SVI loop that enter the bound (Shu et al. 2019):
            `none`: there is no such loop;
            `last`: the last proposal alone;
            `all`: every proposal of the loop, weighted by pi.
        defensive: the share of q(psi|x) in a mixture of tau's, from 0 to below 1.
        mixture_size: the largest number of z that share psi in an evaluation. More z are
            scored in groups, each with its own K psi. 0 means that all M share psi.
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
        """Whether q(z|x) = int q(z|psi,x) q(psi|x) dpsi, rather than an explicit density."""
        return self.psi != "none"

    @property
    def draws_psi(self) -> bool:
        """Whether psi are drawn in addition to the psi_0 that generated each z."""
        return self.has_tau or self.psi_from_mixing

    @property
    def has_tau(self) -> bool:
        """Whether there is a network for tau(psi|z,x)."""
        return self.has_own_tau or self.mixes

    @property
    def has_own_tau(self) -> bool:
        """Whether psi_1:K of each z come from the tau(psi|z,x) of that z alone."""
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
        """Whether tau := p(zeta), for a prior whose zeta is the psi of q."""
        return self.psi == "prior"

    @property
    def shares_psi(self) -> bool:
        """Whether all z are scored at the same psi_1:K."""
        return self.shared != "no"

    @property
    def shares_psi_of_all(self) -> bool:
        """Whether the psi that all z share are M K, those of all z, and not K."""
        return self.shared == "MK"

    @property
    def shares_zeta(self) -> bool:
        """Whether all z are scored at the same zeta_1:L, under a hierarchical prior."""
        return self.zeta == "rho mixture"

    @property
    def has_rho(self) -> bool:
        """Whether a hierarchical prior needs a network for rho(zeta|z)."""
        return self.zeta in ("rho", "rho mixture")

    @property
    def zeta_from_prior(self) -> bool:
        """Whether rho := p(zeta) and zeta is drawn from it."""
        return self.zeta == "prior"

    @property
    def zeta_is_psi_0(self) -> bool:
        """Whether zeta is the psi that generated z."""
        return self.zeta == "psi_0"

    @property
    def needs_hierarchical_prior(self) -> bool:
        """Whether the method is defined only for p(z) = int p(z|zeta) p(zeta) dzeta."""
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
        """Whether a gradient may be estimated from some terms of a sum over k or m.

        The density of a mixture depends on every z, so no term can be left out.
        """
        return not self.mixes and not self.refines and (self.K.free or self.M.free)

    @property
    def takes_multiples(self) -> bool:
        """Whether an evaluation offers the bounds of M, 2 M, ..., 5 M draws."""
        own = self.has_own_tau or not self.hierarchical
        return self.M.free and not self.shares_psi and own

    @property
    def trains_tau(self) -> bool:
        """Whether training has the settings of tau.

        Methods with an inner SVI loop have other settings, even with a tau.
        """
        return not self.refines and self.has_tau

    def psi_per_z(self, counts: Counts) -> Integer:
        """Returns the number of psi besides psi_0 that score each z: K, or M K if shared so.

        Args:
            counts: numbers of draws.
        """
        return counts.M * counts.K if self.shares_psi_of_all else counts.K

    def counts(
        self,
        hierarchical_prior: bool,
        K: int | None = None,
        M: int | None = None,
        L: int | None = None,
    ) -> Counts:
        """Returns the counts, with the method's default for each None.

        Args:
            hierarchical_prior: whether p(z) is hierarchical; otherwise L is 1.
            K: draws of psi besides psi_0, >= 0.
            M: draws of z, >= 1.
            L: draws of zeta, >= 1.

        Raises:
            FixedCountError: a ValueError, if a count differs from the one that is fixed.
        """
        allowed = self._replace(L=self.L if hierarchical_prior else _fixed(1))
        chosen = {}
        for name, requested in (("K", K), ("M", M), ("L", L)):
            count = getattr(allowed, name)
            value = count.default if requested is None else requested
            if not count.free and value != count.default:
                raise FixedCountError(self.name, name, value, count.default)
            chosen[name] = value
        return Counts(**chosen)

    def check_gradient(self, gradient: str, name: str = "gradient") -> None:
        """Checks that the method takes a gradient estimator.

        Args:
            gradient: a key of `gradients.ESTIMATORS`.
            name: the name of the argument, for the message.

        Raises:
            ValueError: if the estimator is not in `gradients` of this method.
        """
        if gradient not in self.gradients:
            raise ValueError(
                f"{name}={arguments.shown(gradient)}: bound={self.name!r} takes "
                + ", ".join(self.gradients)
            )


# Doubly reparameterized gradients for phi need psi_0 and psi_1:K to trade places in the bound.
# A psi that several z share cannot trade places with one of their psi_0.
_EXPLICIT = ("reparameterized", "stl", "iwae-dreg")
_NO_TAU = ("reparameterized", "stl", "gdreg")
_PATH_ONLY = ("reparameterized", "stl")
_TAU_AT_K_0 = ("reparameterized", "stl", "dreg", "gdreg")
_OF_TAU = (*_TAU_AT_K_0, "dreg-biased")
# gdreg comes first because it avoids the noise of phi's direct terms.
_TAU = ("gdreg", *(name for name in _OF_TAU if name != "gdreg"))
# Only unbiased estimators: stl is biased for M > 1, and gdreg is biased for shared psi.
_TAU_MIXTURE = ("dreg", "reparameterized")

_TABLE = (
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

METHODS: dict[str, Method] = {method.name: method for method in _TABLE}


def look_up(
    bound: str,
    posterior: str = "gaussian",
    defensive: float = 0.0,
    mixture_size: int = MIXTURE_SIZE,
) -> Method:
    """Returns the method for a bound and a posterior.

    svi and bsvi refine an explicit or a hierarchical posterior. For a hierarchical posterior,
    they estimate log q(z|x) by the U_K of iwhvi.

    Args:
        bound: a key of `METHODS`.
        posterior: `hierarchical` or the name of an explicit posterior. Only svi and bsvi
            depend on it.
        defensive: the share of q(psi|x) in a mixture of tau's, from 0 to below 1. Methods
            without a mixture ignore it.
        mixture_size: the largest number of z that share a mixture, 0 for all. Methods without
            a mixture ignore it.

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
