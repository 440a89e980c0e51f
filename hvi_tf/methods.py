"""The table of methods: every bound is a row of settings, never a copy of a formula.

The one formula that all rows share is in `bounds.bound`; what a row decides is where
psi_1:K and zeta_1:L come from, and which of the counts K, M and L the user may choose.
"""

from typing import Literal, NamedTuple


class Count(NamedTuple):
    """A number of draws that a method either leaves to the user or fixes."""

    default: int
    free: bool


class Method(NamedTuple):
    """One row of the table (Sobolev & Vetrov 2019, section 2 and appendix B).

    Attributes:
        name: the value of `--bound`.
        inverse: what proposes psi_1:K given z and stands for tau in the formula:
            `tau`: a trained tau(psi|z,x);
            `mixing`: tau := q(psi|x);
            `prior`: tau := p(zeta), of a prior whose zeta is q's psi;
            `none`: q(z|x) is explicit, there is no psi.
        shared: whether psi_1:K are drawn for each z (`no`), or drawn once and used for
            every z: K of them (`K`), or M K of them (`MK`).
        zeta: what proposes zeta_1:L given z and stands for rho, under a hierarchical prior:
            `rho`: a trained rho(zeta|z); an explicit prior will do as well;
            `prior`: rho := p(zeta);
            `psi_0`: zeta is the psi that generated z, and rho := p(zeta).
        K: draws of psi besides the psi_0 that generated z.
        M: draws of z in the multisample bound.
        L: draws of zeta per z under a hierarchical prior; 1 with an explicit prior.
        gradients: the estimators that apply (`gradients.ESTIMATORS`), the default first.
        summary: one line for `--help`.
    """

    name: str
    inverse: Literal["none", "tau", "mixing", "prior"]
    shared: Literal["no", "K", "MK"]
    zeta: Literal["rho", "prior", "psi_0"]
    K: Count
    M: Count
    L: Count
    gradients: tuple[str, ...]
    summary: str

    @property
    def hierarchical(self) -> bool:
        """Whether q(z|x) = int q(z|psi,x) q(psi|x) dpsi; otherwise q(z|x) is explicit."""
        return self.inverse != "none"

    @property
    def needs_hierarchical_prior(self) -> bool:
        """Whether the row is defined for p(z) = int p(z|zeta) p(zeta) dzeta only."""
        return self.zeta != "rho"


def _fixed(count: int) -> Count:
    return Count(count, free=False)


def _free(count: int) -> Count:
    return Count(count, free=True)


# In a hierarchy psi_0 and psi_1:K trade places in the bound, which is what makes doubly
# reparameterized gradients for phi possible; a psi shared by several z does not.
_EXPLICIT = ("reparameterized", "stl", "iwae-dreg")
_NO_TAU = ("reparameterized", "stl", "gdreg")
_SHARED = ("reparameterized", "stl")
_TAU_AT_K_0 = ("reparameterized", "stl", "dreg", "gdreg")
_TAU = (*_TAU_AT_K_0, "dreg-biased")

_ROWS = (
    # name, tau is, shared psi, rho is, K, M, L, gradients, summary
    Method(
        *("vae", "none", "no", "rho", _fixed(0), _fixed(1), _free(50), _EXPLICIT),
        "explicit q(z|x), one sample: the ELBO",
    ),
    Method(
        *("iwae", "none", "no", "rho", _fixed(0), _free(5), _free(50), _EXPLICIT),
        "explicit q(z|x), M samples",
    ),
    Method(
        *("hvm", "tau", "no", "rho", _fixed(0), _fixed(1), _free(50), _TAU_AT_K_0),
        "auxiliary variables: tau scores psi_0 alone",
    ),
    Method(
        *("sivi", "mixing", "no", "rho", _free(50), _free(1), _free(50), _NO_TAU),
        "semi-implicit: K more psi from q(psi|x), no tau",
    ),
    Method(
        *("sivi-equicomp", "mixing", "K", "rho", _free(50), _free(5), _free(50), _SHARED),
        "sivi with the same K psi for all M z",
    ),
    Method(
        *("sivi-equisample", "mixing", "MK", "rho", _free(50), _free(5), _free(50), _SHARED),
        "sivi with the same M K psi for all M z",
    ),
    Method(
        *("dsivi", "mixing", "no", "prior", _free(50), _fixed(1), _free(50), _NO_TAU),
        "sivi under a hierarchical prior, L zeta from p(zeta)",
    ),
    Method(
        *("joint", "prior", "no", "psi_0", _fixed(0), _fixed(1), _fixed(1), _NO_TAU),
        "p(x,z,psi_0) against q(z,psi_0|x), for a prior with q's structure",
    ),
    Method(
        *("iwhvi", "tau", "no", "rho", _free(50), _fixed(1), _free(50), _TAU),
        "K more psi from tau(psi|z,x)",
    ),
    Method(
        *("diwhvi", "tau", "no", "rho", _free(50), _free(5), _free(50), _TAU),
        "iwhvi inside an M-sample bound",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}
