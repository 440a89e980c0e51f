"""The table of methods: every bound is a row of settings, never a copy of a formula.

The one formula that all rows share is in `bounds.bound`; what a row decides is where
psi_1:K and zeta_1:L come from, and which of the counts K, M and L the user may choose.
"""

from typing import Literal, NamedTuple

# Default number of z that share psi in an evaluation. With more of them, each z has fewer of
# the K psi near it.
MIXTURE_SIZE = 1_000


class Count(NamedTuple):
    """A number of draws that a method either leaves to the user or fixes."""

    default: int
    free: bool


def _fixed(count: int) -> Count:
    return Count(count, free=False)


def _free(count: int) -> Count:
    return Count(count, free=True)


class Method(NamedTuple):
    """One row of the table (Sobolev & Vetrov 2019, section 2 and appendix B).

    Attributes:
        name: the value of `--bound`.
        summary: one line for `--help`.
        inverse: what proposes psi_1:K given z and stands for tau in the formula:
            `tau`: a trained tau(psi|z,x);
            `tau mixture`: the mean over m of tau(psi|z_m,x), a density of psi given z_1:M;
            `mixing`: tau := q(psi|x);
            `prior`: tau := p(zeta), of a prior whose zeta is q's psi;
            `none`: q(z|x) is explicit, there is no psi.
        gradients: the estimators that apply (`gradients.ESTIMATORS`), the default first.
        shared: whether psi_1:K are drawn for each z (`no`), or drawn once and used for
            every z: K of them (`K`), or M K of them (`MK`).
        zeta: what proposes zeta_1:L given z and stands for rho, under a hierarchical prior:
            `rho`: a trained rho(zeta|z); an explicit prior will do as well;
            `rho mixture`: the mean over m of rho(zeta|z_m); an explicit prior will do as well;
            `prior`: rho := p(zeta);
            `psi_0`: zeta is the psi that generated z, and rho := p(zeta).
        K: draws of psi besides the psi_0 that generated z.
        M: draws of z in the multisample bound.
        L: draws of zeta per z under a hierarchical prior; 1 with an explicit prior.
        buffer: which proposals of an inner SVI loop enter the bound (Shu et al. 2019):
            `none`: there is no such loop;
            `last`: the refined one alone;
            `all`: every one on the way, as weighted by pi.
        defensive: the share of q(psi|x) in a mixture of tau's, from 0 to below 1.
        mixture_size: at most how many z share psi in an evaluation; more come in groups, each
            with K psi of its own. 0: all M.
    """

    name: str
    summary: str
    inverse: Literal["none", "tau", "tau mixture", "mixing", "prior"]
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
        return self.inverse != "none"

    @property
    def draws_psi(self) -> bool:
        """Whether more psi are drawn for each z, besides the psi_0 that generated it."""
        return self.has_tau or self.inverse == "mixing"

    @property
    def has_tau(self) -> bool:
        """Whether there is a network for tau(psi|z,x)."""
        return self.inverse in ("tau", "tau mixture")

    @property
    def mixes(self) -> bool:
        """Whether psi_1:K come from the mixture of the tau's of several z."""
        return self.inverse == "tau mixture"

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
    def needs_hierarchical_prior(self) -> bool:
        """Whether the row is defined for p(z) = int p(z|zeta) p(zeta) dzeta only."""
        return not self.has_rho

    @property
    def refines(self) -> bool:
        """Whether an inner SVI loop refines the proposal for each observation."""
        return self.buffer != "none"

    @property
    def takes_backward_samples(self) -> bool:
        """Whether the bound has a sum over k or m, for a gradient through some of its terms.

        A mixture depends on every z, so no term can be left out.
        """
        return not self.mixes and not self.refines and (self.K.free or self.M.free)

    @property
    def trains_tau(self) -> bool:
        """Whether psi_1:K come from a trained tau, so that log q(psi|x) - log tau is not 0.

        Rows that refine do not count: their settings of training are others.
        """
        return not self.refines and self.has_tau


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

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def row(bound: str, posterior: str = "gaussian", defensive: float = 0.0) -> Method:
    """The row of a bound; svi and bsvi refine an explicit posterior or a hierarchical one.

    Around a hierarchical posterior log q(z|x) is estimated by iwhvi's U_K.
    """
    found = METHODS[bound]._replace(defensive=defensive)
    if found.refines and posterior == "hierarchical":
        inner = METHODS["iwhvi"]
        return found._replace(inverse=inner.inverse, gradients=_OF_TAU, K=inner.K)
    return found
