"""Figures and tables of Sobolev & Vetrov 2019."""
