"""What is optimised and how, with every default: the one place, for Python and for the flags."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, TypeVar

from style.synthesis import strength
from vgg_normalize.errors import UsageError

TASKS = ("transfer", "texture", "inversion", "amalgamation")
STYLE_LAYERS = tuple((f"block{block}_conv1", 1.0) for block in range(1, 6))
CONTENT_LAYERS = {
    "features": (("block4_conv2", 1.0),),
    "neighbors": tuple((f"block{block}_conv1", 1.0) for block in range(1, 5)),
}
PADDINGS = ("zero", "reflect", "replicate", "wrap")
RENEW_EVERY = {"features": 0, "neighbors": 50}
INITS = {"transfer": "content", "amalgamation": "style", "texture": "noise", "inversion": "noise"}
TV_WEIGHTS = {"transfer": 0.0, "texture": 0.0, "amalgamation": 0.0, "inversion": 0.03}
# Of neighbours: patches that lie beside each other do not fit, which noise would make up for.  The
# least that took it away in five pairs at 192 to 224 pixels, on the normalised network.
NEIGHBORS_TV_WEIGHT = 50.0
# A weight of the range with which the pairs of docs/style.md stay within 3 % of their loss when they
# are clipped, of the default network and weights.  By default it is 0, as in published objectives.
RANGE_WEIGHT = 1000.0
# Which options, and which pictures, a task does not look at.
UNUSED = {
    "transfer": ("norm_weight",),
    "amalgamation": ("norm_weight",),
    "texture": (
        *("content", "content_layers", "content_weight", "content_mask", "preserve_color"),
        *("color_root", "norm_weight", "strength", "content_loss"),
    ),
    "inversion": (
        *("style", "style_blend", "style_scale", "style_layers", "style_weight", "style_loss"),
        *("strength", "content_loss"),
        *("preserve_color", "color_root", "content_mask", "style_mask"),
    ),
}

CHOICES = {
    "task": TASKS,
    "optimizer": ("lbfgs", "adam"),
    "preserve_color": ("none", "luminance", "match"),
    "color_root": ("symmetric", "cholesky"),
    "content_loss": ("features", "neighbors"),
    "precision": ("float32", "bfloat16"),
}
# The least that an option may be.
LEAST = {
    **{"steps": 1, "scales": 1, "history_size": 1, "tile": 0, "seed": 0, "tv_beta": 0.5},
    **dict.fromkeys(("content_weight", "style_weight", "tv_weight", "norm_weight"), 0.0),
    **dict.fromkeys(("range_weight", "preconditioner_exponent", "learning_rate"), 0.0),
    **{"style_scale": 0.01, "scale_factor": 1.1, "renew_every": 0},
}

Function = TypeVar("Function", bound=Callable[..., Any])
Layers = tuple[tuple[str, float], ...]
# With a weight for all losses of a sum, or one for each.
StyleLayers = tuple[tuple[str, float | tuple[float, ...]], ...]


@dataclasses.dataclass(frozen=True)
class Options:
    """The objective of a picture and how it is minimised.

    Attributes:
        task: One of `TASKS`.
        style_blend: The weight of each style; empty: equal.
        style_scale: The style's long side over the result's.
        content_layers: (layer name, weight) where content is compared; empty: those of the
            `content_loss` in `CONTENT_LAYERS` that the network has, or its deepest.
        style_layers: (layer name, weight) where style is compared; empty: `STYLE_LAYERS`, likewise.
            Of a sum of losses the weight may be a tuple, one weight for each.
        content_loss: "features", the content's own, or "neighbors", those of the style that are
            nearest to them, with no style loss unless `style_weight` is given.
        content_weight: Factor of the content.
        strength: How much style, in (0, 1), where `style_weight` is None; of neighbours, see
            `neighbor_terms`.
        style_weight: Factor of the style.
        tv_weight: Factor of total variation; None: as `TV_WEIGHTS` has it for the task, or
            `NEIGHBORS_TV_WEIGHT`.
        norm_weight: Inversion: factor of the alpha norm.
        range_weight: Factor of the mean squared excess of pixels over [0, 1], to which the result
            is clipped.
        tv_beta: Exponent beta of total variation, (dx^2 + dy^2)^(beta / 2).
        style_loss: A style loss, or a sum of them with their weights: "gram:1,moments:0.1".
        init: "content", "style", "noise", or anything else for a picture that is given; None: as
            `INITS` has it for the task.
        seed: Random seed for noise and for sampled positions.
        optimizer: "lbfgs" or "adam".
        steps: Evaluations of the objective at the last size.
        scales: How many sizes, from coarse to fine.
        scale_factor: The long side of each over that of the one before.
        coarse_steps: Evaluations at the sizes before the last, from the coarsest; the last number
            is repeated for any remaining sizes.  Empty: as `steps`.
        renew_every: Evaluations after which random directions and nearest neighbours are chosen
            anew; 0: at each size only.  None: as `RENEW_EVERY` has it for the `content_loss`.
        history_size: Pairs (s, y) that L-BFGS remembers.
        preconditioner_exponent: a of L-BFGS's first preconditioner, 1 / f^2a in frequency f.
        learning_rate: Of Adam.
        preserve_color: "none", "luminance" or "match".
        color_root: How "match" maps colours: "symmetric" or "cholesky".
        padding: What convolutions see beyond the border: "zero", "reflect", "replicate" or "wrap";
            None: what the network was made with.
        wrap: Whether the picture tiles without seams; implies padding "wrap".
        tile: Pixels a side of the tiles in which the objective is computed; 0: the whole picture.
        precision: Of the network's convolutions, "float32" or "bfloat16"; sums, losses and the
            optimiser always use float32.

    Raises:
        UsageError: A value is none of the choices, below the least, or not finite.
    """

    task: str = "transfer"
    style_blend: tuple[float, ...] = ()
    style_scale: float = 1.0
    content_layers: Layers = ()
    style_layers: StyleLayers = ()
    content_loss: str = "features"
    content_weight: float = 1.0
    strength: float = strength.DEFAULT
    style_weight: float | None = None
    tv_weight: float | None = None
    norm_weight: float = 0.03
    range_weight: float = 0.0
    tv_beta: float = 2.0
    style_loss: str = "gram"
    init: str | None = None
    seed: int = 0
    optimizer: str = "lbfgs"
    steps: int = 500
    scales: int = 1
    scale_factor: float = 2.0
    coarse_steps: tuple[int, ...] = ()
    renew_every: int | None = None
    history_size: int = 30
    preconditioner_exponent: float = 0.25
    learning_rate: float = 0.02
    preserve_color: str = "none"
    color_root: str = "symmetric"
    padding: str | None = None
    wrap: bool = False
    tile: int = 0
    precision: str = "float32"

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
        if self.padding not in (None, *PADDINGS):
            raise UsageError(
                f"Expected padding {', '.join(PADDINGS)}. Received: {self.padding!r}. Choose one."
            )
        if self.wrap and self.padding not in (None, "wrap"):
            raise UsageError(
                f"Expected wrap without another padding. Received: {self.padding}. Leave out one."
            )
        if any(steps < 1 for steps in self.coarse_steps):
            raise UsageError(
                f"Expected coarse_steps of at least 1. Received: {min(self.coarse_steps)}. Correct "
                "it."
            )
        count = len(style_losses(self.style_loss))
        for _, weight in self.style_layers:
            weights_of(weight, count)


def style_losses(text: str) -> dict[str, float]:
    """The losses of a sum and the weight of each: "gram:1,moments:0.1"; a weight left out is 1.

    Raises:
        UsageError: One is unknown or given twice, or a weight is no number of 0 or more.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        if name not in strength.FACTORS or name in shares:
            raise UsageError(
                f"Expected style_loss {', '.join(strength.FACTORS)}, or a sum like "
                f"gram:1,moments:0.1. Received: {text!r}. Choose from these, each once."
            )
        try:
            shares[name] = float(number) if colon else 1.0
        except ValueError:
            shares[name] = -1.0
        if not 0 <= shares[name] < math.inf:
            raise UsageError(
                f"Expected weights of 0 or more in style_loss. Received: {text!r}. Correct it."
            )
    if not sum(shares.values()) > 0:
        raise UsageError(
            f"Expected a style_loss above 0. Received: {text!r}. For no style at all use "
            "`style_weight=0`."
        )
    return shares


def weights_of(weight: float | tuple[float, ...], losses: int) -> tuple[float, ...]:
    """The weights of a layer, one for each loss of a sum.

    Raises:
        UsageError: There is neither one for all nor one for each.
    """
    weights = weight if isinstance(weight, tuple) else (weight,) * losses
    if len(weights) != losses:
        raise UsageError(
            f"Expected one weight for each style layer, or {losses}, one for each style loss. "
            f"Received: {len(weights)}. Give as many as losses."
        )
    return weights


def shows_options(task: str, *, without: str = "") -> Callable[[Function], Function]:
    """A decorator that names the options of a task, for help and completion, where **options stood.

    The weights of styles are left out, which stand with the styles.

    Args:
        task: One of `TASKS`.
        without: An option that the function sets itself.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        named = list(signature.parameters.values())[:-1]
        left_out = {
            "task",
            "style_blend",
            without,
            *UNUSED[task],
            *(parameter.name for parameter in named),
        }
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )
            for field in dataclasses.fields(Options)
            if field.name not in left_out
        ]
        shown = signature.replace(parameters=[*named, *options])
        function.__signature__ = shown  # type: ignore[attr-defined]
        return function

    return decorate
