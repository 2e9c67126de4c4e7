"""The settings of a run and their defaults: the one place, for Python and for the flags."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line asks for; the contract of each field stands with its flag."""

    output: str
    images: str | None = None
    task: str = "normalize"
    architecture: str = "vgg19"
    weights: str = "imagenet"
    reference: str | None = None
    tolerance: float = 0.02
    means: str | None = None
    allow_mismatch: bool = False
    include_top: bool = False
    last_layer: str | None = None
    pooling: str = "max"
    preprocessing: str = "caffe"
    padding: str = "zero"
    max_images: int = 0
    target_error: float = 0.0
    check_images: int = 256
    resize: str = "squash"
    image_size: int = 224
    batch_size: int = 8
    strategy: str = "auto"
    logical_cpus: int = 0
    seed: int = 0
    allow_tf32: bool = False
    max_skipped: int = 0
    formats: tuple[str, ...] = ("saved_model", "h5")
    overwrite: bool = False
    resume: bool = False
    checkpoint_every: int = 1000


# What a checkpoint must agree on, besides the images and the weights themselves.
CHECKPOINT_KEYS = (
    "architecture",
    "include_top",
    "last_layer",
    "pooling",
    "preprocessing",
    "padding",
    "max_images",
    "resize",
    "image_size",
    "batch_size",
    "seed",
    "allow_tf32",
)
