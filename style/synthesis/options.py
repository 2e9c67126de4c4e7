"""What is optimised and how, with every default: the one place, for Python and for the flags."""

from __future__ import annotations

import dataclasses
import math

from style.synthesis import strength
from vgg_normalize.errors import UsageError

TASKS = ("transfer", "texture", "inversion", "amalgamation")
STYLE_LAYERS = tuple((f"block{block}_conv1", 1.0) for block in range(1, 6))
CONTENT_LAYERS = (("block4_conv2", 1.0),)
INITS = {"transfer": "content", "amalgamation": "style", "texture": "noise", "inversion": "noise"}
TV_WEIGHTS = {"transfer": 0.0, "texture": 0.0, "amalgamation": 0.0, "inversion": 0.03}
# Which options, and which pictures, a task does not look at.
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

CHOICES = {
    "task": TASKS,
    "optimizer": ("lbfgs", "adam"),
    "preserve_color": ("none", "luminance", "match"),
    "color_root": ("symmetric", "cholesky"),
}
# The least that an option may be.
LEAST = {
    **{"steps": 1, "scales": 1, "history_size": 1, "tile": 0, "seed": 0, "tv_beta": 0.5},
    **dict.fromkeys(("content_weight", "style_weight", "tv_weight", "norm_weight"), 0.0),
    **dict.fromkeys(("preconditioner_exponent", "learning_rate"), 0.0),
    "style_scale": 0.01,
}

Layers = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """The objective of a picture and how it is minimised.

    Attributes:
        task: One of `TASKS`.
        style_blend: The weight of each style; empty: equal.
        style_scale: The style's long side over the result's.
        content_layers: (layer name, weight) where content is compared; empty: `CONTENT_LAYERS`, or
            the deepest layer of a network that has none of them.
        style_layers: (layer name, weight) where style is compared; empty: `STYLE_LAYERS`, likewise.
        content_weight: Factor of the content.
        strength: How much style, in (0, 1), where `style_weight` is None.
        style_weight: Factor of the style.
        tv_weight: Factor of total variation; None: as `TV_WEIGHTS` has it for the task.
        norm_weight: Inversion: factor of the alpha norm.
        tv_beta: Exponent beta of total variation, (dx^2 + dy^2)^(beta / 2).
        style_loss: A key of `losses.STYLE_LOSSES`.
        init: "content", "style", "noise", or anything else for a picture that is given; None: as
            `INITS` has it for the task.
        seed: Random seed for noise and for sampled positions.
        optimizer: "lbfgs" or "adam".
        steps: Evaluations of the objective at each size.
        scales: How many sizes, each twice the last.
        history_size: Pairs (s, y) that L-BFGS remembers.
        preconditioner_exponent: a of L-BFGS's first preconditioner, 1 / f^2a in frequency f.
        learning_rate: Of Adam.
        preserve_color: "none", "luminance" or "match".
        color_root: How "match" maps colours: "symmetric" or "cholesky".
        tile: Pixels a side of the tiles in which the objective is computed; 0: the whole picture.

    Raises:
        UsageError: A value is none of the choices, below the least, or not finite.
    """

    task: str = "transfer"
    style_blend: tuple[float, ...] = ()
    style_scale: float = 1.0
    content_layers: Layers = ()
    style_layers: Layers = ()
    content_weight: float = 1.0
    strength: float = strength.DEFAULT
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
    history_size: int = 30
    preconditioner_exponent: float = 0.25
    learning_rate: float = 0.02
    preserve_color: str = "none"
    color_root: str = "symmetric"
    tile: int = 0

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(
                    f"Expected {name} {', '.join(choices)}. Received: {value!r}. Choose one."
                )
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UsageError(
                    f"Expected {name} of at least {least:g}. Received: {value}. Correct it."
                )
        strength.require_strength(self.strength)
