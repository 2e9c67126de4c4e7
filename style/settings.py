"""The settings of a run and their defaults: the one place, for Python and for the flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from vgg_normalize.errors import UsageError

TASKS = ("transfer", "texture", "inversion", "amalgamation")
STYLE_LAYERS = tuple((f"block{block}_conv1", 1.0) for block in range(1, 6))
CONTENT_LAYERS = (("block4_conv2", 1.0),)
INITS = {"transfer": "content", "amalgamation": "style", "texture": "noise", "inversion": "noise"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked for; the contract of each field stands with its flag in `__main__`."""

    output: str
    model: str = "vgg19"
    task: str = "transfer"
    content: str | None = None
    style: tuple[str, ...] = ()
    style_blend: tuple[float, ...] = ()
    size: int = 512
    style_scale: float = 1.0
    content_layers: tuple[tuple[str, float], ...] = ()
    style_layers: tuple[tuple[str, float], ...] = ()
    content_weight: float = 1.0
    strength: float = 0.5
    style_weight: float | None = None
    tv_weight: float | None = None
    norm_weight: float = 0.03
    tv_beta: float = 2.0
    style_loss: str = "gram"
    init: str | None = None
    seed: int = 0
    optimizer: str = "lbfgs"
    steps: int = 500
    scales: int = 1
    memory: int = 30
    memory_folder: str | None = None
    smoothing: float = 0.25
    learning_rate: float = 0.02
    preserve_color: str = "none"
    color_root: str = "symmetric"
    content_mask: tuple[str, ...] = ()
    style_mask: tuple[str, ...] = ()
    tile: int = 0
    bits: int = 8
    log: str | None = None
    preview_every: int = 0
    animation: str | None = None
    checkpoint: str | None = None
    checkpoint_every: int = 50
    resume: bool = False


STYLE_LOSSES = ("gram", "moments", "mmd_linear", "mmd_poly", "mmd_gaussian", "wasserstein")
TV_WEIGHTS = {"transfer": 0.0, "texture": 0.0, "amalgamation": 0.0, "inversion": 0.03}
# Which flags a task does not look at.
UNUSED = {
    "transfer": ("norm_weight",),
    "amalgamation": ("norm_weight",),
    "texture": (
        *("content", "content_layers", "content_weight", "content_mask", "preserve_color"),
        *("color_root", "norm_weight", "strength"),
    ),
    "inversion": (
        *("style", "style_blend", "style_scale", "style_layers", "style_weight", "style_loss"),
        "strength",
        *("preserve_color", "color_root", "content_mask", "style_mask"),
    ),
}
# What a checkpoint need not agree on: of pictures and weights it knows the content.  More steps are
# more of the same; `Checkpoints` sees where they are not.
FREE = (
    *("output", "log", "preview_every", "animation", "checkpoint", "checkpoint_every", "resume"),
    *("model", "content", "style", "content_mask", "style_mask", "bits", "steps"),
)


# What the papers train with; of `encoder` Ghiasi et al. (2017), from their program.
TRAINING: dict[str, dict[str, Any]] = {
    # Huang and Belongie (2017) and their program.
    "adain": {"steps": 160000, "learning_rate": 1e-4, "decay": 5e-5, "style_weight": 10.0},
    "encoder": {"steps": 4000000, "learning_rate": 1e-5, "decay": 0.0, "style_weight": 100.0},
    # Dumoulin et al. (2017), table 1.
    "cin": {"steps": 40000, "learning_rate": 1e-3, "decay": 0.0, "style_weight": 100.0},
}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What `style.train` is asked for; the contract of each field stands with its flag there."""

    content: str
    style: str
    output: str
    model: str = "vgg19"
    method: str = "adain"
    overwrite: bool = False
    size: int = 256
    resize: int | None = None
    batch_size: int = 8
    steps: int | None = None
    learning_rate: float | None = None
    decay: float | None = None
    content_layers: tuple[tuple[str, float], ...] = ()
    style_layers: tuple[tuple[str, float], ...] = ()
    style_loss: str | None = None
    content_weight: float = 1.0
    style_weight: float | None = None
    tv_weight: float = 0.0
    seed: int = 0
    max_skipped: int = 0
    log: str | None = None
    tensorboard: str | None = None
    preview: str | None = None
    preview_every: int = 100
    checkpoint: str | None = None
    checkpoint_every: int = 500
    resume: bool = False


# What a training's checkpoint need not agree on: of pictures and weights it knows the content.  A
# training that diverged goes on with a lower rate.
TRAIN_FREE = (
    *("output", "overwrite", "log", "tensorboard", "preview", "preview_every", "checkpoint"),
    *("checkpoint_every", "resume", "steps", "learning_rate", "model", "content", "style"),
)


@dataclasses.dataclass(frozen=True)
class ApplySettings:
    """What `style.apply` is asked for; the contract of each field stands with its flag there."""

    network: str
    content: str
    output: str
    style: tuple[str, ...] = ()
    style_blend: tuple[float, ...] = ()
    alpha: float = 1.0
    size: int = 0
    style_size: int = 512
    preserve_color: str = "none"
    color_root: str = "symmetric"
    content_mask: tuple[str, ...] = ()
    tile: int = 0
    bits: int = 8
    overwrite: bool = False
    max_skipped: int = 0


def parse_layers(flag: str, texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """LAYER:WEIGHT, where a missing weight is 1.

    Raises:
        UsageError: A weight is no number of 0 or more.
    """
    split = [text.partition(":") for text in texts]
    return tuple(
        (name.strip(), parse_weights(flag, [weight])[0] if colon else 1.0)
        for name, colon, weight in split
    )


def parse_weights(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Numbers of 0 or more.

    Raises:
        UsageError: One is not.
    """
    return tuple(_weight(flag, text) for text in texts)


def _weight(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(
            f"Expected weights of 0 or more in --{flag}. Received: {text!r}. Correct it."
        )
    return value
