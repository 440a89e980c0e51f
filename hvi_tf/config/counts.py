"""Defaults of the counts, the prior and the gradient that depend on the method."""

import dataclasses
from typing import Any

from hvi_tf.config.settings import MethodConfig
from hvi_tf.errors import UserError
from hvi_tf.inference import methods
from hvi_tf.inference.methods import METHODS, FixedCountError, Method


def resolve(m: MethodConfig) -> MethodConfig:
    """Returns the settings with the defaults of the method in place of None.

    Raises:
        UserError: if a setting does not fit the method.
    """
    if m.bound not in METHODS:
        raise UserError(f"--bound={m.bound}: unknown; choose one of {', '.join(METHODS)}")
    _check_posterior(m)
    method = methods.look_up(m.bound, m.posterior)
    prior = m.prior or ("hierarchical" if method.needs_hierarchical_prior else "normal")
    if prior not in ("normal", "hierarchical"):
        raise UserError(f"--prior={prior}: choose normal or hierarchical")
    if prior == "normal" and method.needs_hierarchical_prior:
        raise UserError(f"--prior=normal: --bound={method.name} needs --prior=hierarchical")
    try:
        values: dict[str, Any] = method.counts(prior == "hierarchical", m.K, m.M, m.L)._asdict()
    except FixedCountError as error:
        raise UserError(_fixed_count_message(error, method, prior)) from error
    gradient = m.gradient or method.gradients[0]
    if gradient not in method.gradients:
        others = ", ".join(method.gradients)
        raise UserError(f"--gradient={gradient}: --bound={method.name} takes {others}")
    if method.refines and m.svi_steps is None:
        # Both use 10 draws: svi refines one over 10 steps, and bsvi has a buffer of 10.
        values["svi_steps"] = 10 if method.scores_last_proposal else 9
    return dataclasses.replace(m, gradient=gradient, prior=prior, **values)


def _check_posterior(m: MethodConfig) -> None:
    method, posterior = methods.look_up(m.bound), m.posterior
    known = ("gaussian", "iaf", "realnvp", "hierarchical")
    if posterior not in known:
        raise UserError(f"--posterior={posterior}: choose {', '.join(known[:-1])} or {known[-1]}")
    if posterior == "hierarchical" and not method.refines:
        hint = (
            "leave --posterior out" if method.hierarchical else "choose --bound=iwhvi, svi or bsvi"
        )
        raise UserError(f"--posterior=hierarchical: for --bound=svi and bsvi; {hint}")
    if posterior != "gaussian" and method.hierarchical:
        explicit = "|".join(r.name for r in METHODS.values() if not r.hierarchical)
        raise UserError(
            f"--posterior={posterior}: --bound={m.bound} has a hierarchical q(z|x); choose "
            f"--bound={explicit}, or leave --posterior out"
        )


def _fixed_count_message(error: FixedCountError, method: Method, prior: str) -> str:
    name, given, fixed = error.name, error.value, error.fixed
    if name == "L" and prior == "normal":
        return (
            f"--L={given}: the prior is explicit, so there is no zeta to draw; leave --L out, "
            "or choose --prior=hierarchical"
        )
    others = [m.name for m in METHODS.values() if getattr(m, name).free]
    reason = "has no K" if name == "K" and not method.hierarchical else f"fixes {name}={fixed}"
    return (
        f"--{name}={given}: --bound={method.name} {reason}; leave --{name} out, or choose "
        f"--bound={'|'.join(others)}"
    )
