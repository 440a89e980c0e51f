"""The table of methods: every bound is a row of settings, never a copy of a formula.

The one formula that all rows share is in `bounds.bound`; what a row decides is where
psi_1:K come from and which of the counts K, M and L the user may choose.
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
        hierarchical: q(z|x) = int q(z|psi,x) q(psi|x) dpsi; otherwise q(z|x) is explicit.
        inverse: the distribution that proposes psi_1:K given z: a trained tau, or
            `mixing`, that is tau := q(psi|x). `none` for an explicit q(z|x).
        K: draws of psi besides the psi_0 that generated z.
        M: draws of z in the multisample bound.
        L: draws of zeta per z under a hierarchical prior; 1 with an explicit prior.
        gradients: the estimators that apply, the default first.
        summary: one line for `--help`.
    """

    name: str
    hierarchical: bool
    inverse: Literal["none", "tau", "mixing"]
    K: Count
    M: Count
    L: Count
    gradients: tuple[str, ...]
    summary: str


_REPARAMETERIZED = ("reparameterized",)
_ALL_GRADIENTS = ("reparameterized", "dreg")
_EXPLICIT_PRIOR = Count(1, free=False)


def _explicit(name: str, M: Count, summary: str) -> Method:
    K = Count(0, free=False)
    return Method(name, False, "none", K, M, _EXPLICIT_PRIOR, _REPARAMETERIZED, summary)


def _hierarchical(
    name: str,
    inverse: Literal["tau", "mixing"],
    K: Count,
    M: Count,
    summary: str,
) -> Method:
    gradients = _ALL_GRADIENTS if inverse == "tau" else _REPARAMETERIZED
    return Method(name, True, inverse, K, M, _EXPLICIT_PRIOR, gradients, summary)


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        _explicit("vae", Count(1, free=False), "explicit q(z|x), one sample: the ELBO"),
        _explicit("iwae", Count(5, free=True), "explicit q(z|x), M samples"),
        _hierarchical(
            "hvm",
            "tau",
            Count(0, free=False),
            Count(1, free=False),
            "auxiliary variables: tau scores psi_0 alone",
        ),
        _hierarchical(
            "sivi",
            "mixing",
            Count(50, free=True),
            Count(1, free=True),
            "semi-implicit: K more psi from q(psi|x), no tau",
        ),
        _hierarchical(
            "iwhvi",
            "tau",
            Count(50, free=True),
            Count(1, free=False),
            "K more psi from tau(psi|z,x)",
        ),
        _hierarchical(
            "diwhvi",
            "tau",
            Count(50, free=True),
            Count(5, free=True),
            "iwhvi inside an M-sample bound",
        ),
    )
}
