"""Bounds on log-densities as pure reductions: arrays in, nats out.

Read `marginal`, `weights`, `path_factors`, `buffer`, `jackknife`, `diagnostics` and then
`streaming`. Nothing here depends on a model, a distribution or a configuration.
"""

from hvi_tf.bounds.buffer import buffer_responsibilities, generalized_iwae
from hvi_tf.bounds.marginal import (
    LogDensities,
    as_weight,
    bound,
    inner_log_ratios,
    log_marginal_lower,
    log_marginal_upper,
    log_mean_exp,
    log_sum_exp,
    outer_log_weights,
    warmed_up,
)
from hvi_tf.bounds.path_factors import rho_path_factor, swap_ratios, tau_path_factor
from hvi_tf.bounds.weights import effective_sample_size, normalized_weights

__all__ = [
    "LogDensities",
    "as_weight",
    "bound",
    "buffer_responsibilities",
    "effective_sample_size",
    "generalized_iwae",
    "inner_log_ratios",
    "log_marginal_lower",
    "log_marginal_upper",
    "log_mean_exp",
    "log_sum_exp",
    "normalized_weights",
    "outer_log_weights",
    "rho_path_factor",
    "swap_ratios",
    "tau_path_factor",
    "warmed_up",
]
