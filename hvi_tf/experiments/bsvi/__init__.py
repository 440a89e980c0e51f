"""Figures and tables of Shu et al. 2019."""
