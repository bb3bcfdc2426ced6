"""Iterated local search over levels with exact coordinate and pair moves: the optimizer ``quantum``."""
