"""Variational inference for any model of callables that return TFP distributions.

Core: `methods`, `model`, `callables`, `priors`, `mixtures`, `pairs`, `sampling`, `densities`.
Gradients and fits: `objective`, `subsampling`, `gradients`, `ascent`, `fit`, `validation`,
`model_checks`, `checked`. Local refinement: `trajectory`, `svi`, `svi_gradients`. Scores:
`plans`, `draw_scores`, `group_scores`, `image_scores`, `refined_scores`, `evidence`, `sandwich`,
`hmc`.
"""
