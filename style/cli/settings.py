"""What each command is asked for; the defaults of pictures are those of `synthesis.options`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from style.synthesis import strength
from style.synthesis.options import Layers, Options, StyleLayers
from vgg_normalize.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """What is asked for; the contract of each field stands with its flag in `__main__`."""

    output: str
    model: str = "vgg19"
    content: str | None = None
    style: tuple[str, ...] = ()
    size: int = 512
    memory_folder: str | None = None
    interpolate: int = 0
    content_mask: tuple[str, ...] = ()
    style_mask: tuple[str, ...] = ()
    bits: int = 8
    log: str | None = None
    preview_every: int = 0
    animation: str | None = None
    checkpoint: str | None = None
    checkpoint_every: int = 50
    resume: bool = False
    overwrite: bool = False
    max_skipped: int = 0


# Style losses that networks are trained with; directions that change have no place there.
TRAINING_LOSSES = tuple(name for name in strength.FACTORS if name != "sliced_wasserstein")
# Keys of `feedforward.normalizations.NORMALIZATIONS`, known without TensorFlow.
NORMALIZATIONS = ("instance", "batch", "synchronized", "layer", "group", "pixel", "none")
# What a checkpoint need not agree on: of pictures and weights it knows the content.  More steps are
# more of the same; `TransferCheckpoint` sees where they are not.
CHECKPOINT_IGNORED = (
    *("output", "log", "preview_every", "animation", "checkpoint", "checkpoint_every", "resume"),
    *("model", "content", "style", "content_mask", "style_mask", "bits", "steps"),
    *("overwrite", "max_skipped", "interpolate"),
)


# What each `--recipe` sets, by --method, where the flag itself is not given.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    # For a machine without a GPU; docs/recipes.md says what was tried.
    "quick": {
        method: {
            **{"size": 128, "batch_size": 4, "steps": steps, "learning_rate": rate, "decay": 0.0},
            **{"warmup": warmup, "strength": goal, "balance": True, "skip": skip},
        }
        for method, steps, rate, warmup, goal, skip in (
            # What AdaIN's content is compared with has the style's moments already.
            ("adain", 1500, 1e-3, 100, 0.06, False),
            ("encoder", 1000, 1e-3, 100, 0.3, True),
            ("cin", 1000, 1e-3, 100, 0.3, True),
        )
    },
    # What the papers train with; of `encoder` Ghiasi et al. (2017), from their program.
    "paper": {
        # Huang and Belongie (2017) and their program.
        "adain": {
            **{"size": 256, "batch_size": 8, "steps": 160000, "learning_rate": 1e-4, "decay": 5e-5},
            "style_weight": 10.0,
        },
        "encoder": {
            **{"size": 256, "batch_size": 8, "steps": 4000000, "learning_rate": 1e-5, "decay": 0.0},
            "style_weight": 100.0,
        },
        # Dumoulin et al. (2017), table 1.
        "cin": {
            **{"size": 256, "batch_size": 16, "steps": 40000, "learning_rate": 1e-3, "decay": 0.0},
            "style_weight": 100.0,
        },
    },
}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """What `style.train` is asked for; the contract of each field stands with its flag there."""

    content: str
    style: str
    output: str
    model: str = "vgg19"
    method: str = "adain"
    recipe: str = "quick"
    overwrite: bool = False
    size: int = 128
    resize: int | None = None
    batch_size: int = 4
    steps: int | None = None
    learning_rate: float | None = None
    decay: float | None = None
    warmup: int = 0
    content_layers: tuple[tuple[str, float], ...] = ()
    style_layers: tuple[tuple[str, float], ...] = ()
    style_loss: str | None = None
    content_weight: float = 1.0
    style_weight: float | None = None
    strength: float | None = None
    balance: bool = False
    tv_weight: float = 0.0
    normalization: str = "instance"
    spectral: bool = False
    skip: bool = False
    seed: int = 0
    precision: str = "float32"
    strategy: str = "auto"
    logical_cpus: int = 0
    max_skipped: int = 0
    log: str | None = None
    tensorboard: str | None = None
    preview: str | None = None
    preview_every: int = 100
    checkpoint: str | None = None
    checkpoint_every: int = 500
    resume: bool = False
    formats: tuple[str, ...] = ("saved_model",)
    export_size: int | None = None


# What a training's checkpoint need not agree on: of pictures and weights it knows the content.  A
# training that diverged goes on with a lower rate.
TRAINING_CHECKPOINT_IGNORED = (
    *("output", "overwrite", "log", "tensorboard", "preview", "preview_every", "checkpoint"),
    *("checkpoint_every", "resume", "steps", "learning_rate", "model", "content", "style"),
    *("strategy", "logical_cpus", "formats", "export_size", "recipe"),
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


def parse_layers(flag: str, texts: Sequence[str]) -> Layers:
    """Parse LAYER:WEIGHT, where a missing weight is 1.

    Raises:
        UsageError: A weight is no number of 0 or more.
    """
    split = [text.partition(":") for text in texts]
    return tuple(
        (name.strip(), _weight(flag, weight) if colon else 1.0) for name, colon, weight in split
    )


def parse_style_layers(flag: str, texts: Sequence[str]) -> StyleLayers:
    """Parse LAYER:WEIGHT or LAYER:WEIGHT/WEIGHT, one for each loss of a sum.

    Raises:
        UsageError: A weight is no number of 0 or more.
    """
    layers: list[tuple[str, float | tuple[float, ...]]] = []
    for text in texts:
        name, _, weights = text.partition(":")
        if "/" in weights:
            layers.append((name.strip(), parse_weights(flag, weights.split("/"))))
        else:
            layers += parse_layers(flag, [text])
    return tuple(layers)


def parse_weights(flag: str, texts: Sequence[str]) -> tuple[float, ...]:
    """Parse numbers of 0 or more.

    Raises:
        UsageError: One is not.
    """
    return tuple(_weight(flag, text) for text in texts)


def split_list(text: str | None) -> list[str]:
    """The words of a list that is separated by commas."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def parse_counts(flag: str, texts: Sequence[str]) -> tuple[int, ...]:
    """Parse whole numbers of 1 or more.

    Raises:
        UsageError: One is not.
    """
    try:
        counts = tuple(int(text) for text in texts)
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise UsageError(
            f"Expected whole numbers of 1 or more in --{flag}. Received: {','.join(texts)!r}. "
            "Correct it."
        )
    return counts


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
