"""The quantum-inspired optimizer in the terms of other tools: Ray Tune, Optuna, pymoo.

Each module needs its tool, which is not among this package's dependencies. ``one_by_one`` is what they share.
"""
