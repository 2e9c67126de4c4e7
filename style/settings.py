"""The settings of a run and their defaults: the one place, for Python and for the flags."""

from __future__ import annotations

import dataclasses

TASKS = ("transfer", "texture", "inversion", "amalgamation")
STYLE_LAYERS = tuple((f"block{block}_conv1", 1.0) for block in range(1, 6))
CONTENT_LAYERS = (("block4_conv2", 1.0),)
INITS = {"transfer": "content", "amalgamation": "style", "texture": "noise", "inversion": "noise"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked for; the contract of each field stands with its flag in `__main__`."""

    model: str
    output: str
    task: str = "transfer"
    content: str | None = None
    style: tuple[str, ...] = ()
    style_blend: tuple[float, ...] = ()
    size: int = 512
    style_scale: float = 1.0
    content_layers: tuple[tuple[str, float], ...] = ()
    style_layers: tuple[tuple[str, float], ...] = ()
    content_weight: float = 1.0
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


# What good pictures took on normalised features, by eye; the losses' own magnitudes differ.
STYLE_WEIGHTS = {
    "gram": 1e2,
    "moments": 1e2,
    "mmd_linear": 1e3,
    "mmd_poly": 1e2,
    "mmd_gaussian": 1e3,
    "wasserstein": 1e2,
}
TV_WEIGHTS = {"transfer": 0.0, "texture": 0.0, "amalgamation": 0.0, "inversion": 0.03}
# Which flags a task does not look at.
UNUSED = {
    "transfer": ("norm_weight",),
    "amalgamation": ("norm_weight",),
    "texture": (
        *("content", "content_layers", "content_weight", "content_mask", "preserve_color"),
        *("color_root", "norm_weight"),
    ),
    "inversion": (
        *("style", "style_blend", "style_scale", "style_layers", "style_weight", "style_loss"),
        *("preserve_color", "color_root", "content_mask", "style_mask"),
    ),
}
# What a checkpoint need not agree on: of pictures and weights it knows the content.
FREE = (
    *("output", "log", "preview_every", "animation", "checkpoint", "checkpoint_every", "resume"),
    *("model", "content", "style", "content_mask", "style_mask"),
)
