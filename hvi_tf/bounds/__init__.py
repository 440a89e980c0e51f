"""Bounds on log densities as pure reductions: arrays in, nats out."""

from hvi_tf.bounds.marginal import (
    LogDensities as LogDensities,
)
from hvi_tf.bounds.marginal import (
    as_weight as as_weight,
)
from hvi_tf.bounds.marginal import (
    bound as bound,
)
from hvi_tf.bounds.marginal import (
    buffer_responsibilities as buffer_responsibilities,
)
from hvi_tf.bounds.marginal import (
    effective_sample_size as effective_sample_size,
)
from hvi_tf.bounds.marginal import (
    generalized_iwae as generalized_iwae,
)
from hvi_tf.bounds.marginal import (
    inner_log_ratios as inner_log_ratios,
)
from hvi_tf.bounds.marginal import (
    log_marginal_lower as log_marginal_lower,
)
from hvi_tf.bounds.marginal import (
    log_marginal_upper as log_marginal_upper,
)
from hvi_tf.bounds.marginal import (
    log_mean_exp as log_mean_exp,
)
from hvi_tf.bounds.marginal import (
    log_sum_exp as log_sum_exp,
)
from hvi_tf.bounds.marginal import (
    normalised_weights as normalised_weights,
)
from hvi_tf.bounds.marginal import (
    outer_log_weights as outer_log_weights,
)
from hvi_tf.bounds.marginal import (
    rho_path_factor as rho_path_factor,
)
from hvi_tf.bounds.marginal import (
    swap_ratios as swap_ratios,
)
from hvi_tf.bounds.marginal import (
    tau_path_factor as tau_path_factor,
)
from hvi_tf.bounds.marginal import (
    warmed_up as warmed_up,
)
