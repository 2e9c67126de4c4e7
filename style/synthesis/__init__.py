"""Pictures by optimisation: transfer, texture, inversion and amalgamation."""
