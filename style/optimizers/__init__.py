"""How an objective is minimised: L-BFGS and Adam as pairs of pure functions.

Knows nothing of what the objective is.
"""
