"""Weights of a VGG: reading files of all kinds and layouts, and writing them."""
