"""One picture's problem: settings and pictures -> the objective at each size."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from style import evaluation, memory, objective, strength, synthesis
from style.objective import Term
from style.pictures import Pictures
from style.settings import (
    CONTENT_LAYERS,
    INITS,
    STYLE_LAYERS,
    TV_WEIGHTS,
    UNUSED,
    Settings,
)
from vgg_normalize import chain
from vgg_normalize.errors import ImagesError, NetworkError, UsageError

# What decides the terms besides their weights: runs that agree on it share their targets.
TARGETS = (
    *("task", "size", "style_scale", "style_blend", "content_layers", "style_layers"),
    *("style_loss", "seed", "preserve_color", "color_root", "tile"),
    *("content", "style", "content_mask", "style_mask"),
)
Cache = dict[Any, Any]


def resolve(settings: Settings, model: keras.Model) -> Settings:
    """The settings with every default that depends on the task or the network filled in.

    What the task does not use is as if it had not been given.

    Raises:
        UsageError: A picture that the task needs is not named, or numbers of things differ.
        NetworkError: The network has no such layer.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
    settings = dataclasses.replace(
        settings, **{name: defaults[name] for name in UNUSED[settings.task]}
    )
    needs_style = settings.task != "inversion"
    if settings.task != "texture" and not settings.content:
        raise UsageError(f"Expected --content for {settings.task}. Received: none. Name a picture.")
    if needs_style and not settings.style:
        raise UsageError(f"Expected --style for {settings.task}. Received: none. Name a picture.")
    blend = settings.style_blend or tuple(1.0 for _ in settings.style)
    for name, given in (
        ("style_blend", blend),
        ("content_mask", settings.content_mask),
        ("style_mask", settings.style_mask),
    ):
        if given and len(given) != len(settings.style):
            raise UsageError(
                f"Expected {len(settings.style)} in --{name}, one for each style. Received: "
                f"{len(given)}. Give as many as styles."
            )
    if needs_style and not sum(blend) > 0:
        raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
    names = [stage.layer.name for stage in chain.stages(model)]
    tv_weight = settings.tv_weight
    return dataclasses.replace(
        settings,
        style_blend=blend,
        content_layers=layers_of(settings.content_layers, CONTENT_LAYERS, names),
        style_layers=layers_of(settings.style_layers, STYLE_LAYERS, names),
        tv_weight=TV_WEIGHTS[settings.task] if tv_weight is None else tv_weight,
        init=settings.init or INITS[settings.task],
    )


def layers_of(
    given: tuple[tuple[str, float], ...], default: tuple[tuple[str, float], ...], names: list[str]
) -> tuple[tuple[str, float], ...]:
    """The layers that were given, or of the default those that the network has, or its deepest.

    Raises:
        NetworkError: The network has no such layer.
    """
    unknown = [name for name, _ in given if name not in names]
    if unknown:
        raise NetworkError(
            f"Expected layers of this network: {', '.join(names)}. Received: "
            f"{', '.join(unknown)}. Choose from these, or use a deeper --model."
        )
    if given:
        return given
    return tuple(pair for pair in default if pair[0] in names) or ((names[-1], 1.0),)


class Problem:
    """The objective of one picture.

    Args:
        settings: After `resolve`.
        model: The network.
        pictures: What is read.
        cache: Where what several runs can share is kept.

    Raises:
        ImagesError: A picture is too small for the layers.
        DevicesError: The memory will not do.
    """

    def __init__(
        self, settings: Settings, model: keras.Model, pictures: Pictures, cache: Cache | None = None
    ) -> None:
        self.settings, self.model, self.pictures = settings, model, pictures
        self._cache: Cache = {} if cache is None else cache
        layers = {
            "inversion": settings.content_layers,
            "texture": settings.style_layers,
        }.get(settings.task, (*settings.content_layers, *settings.style_layers))
        used = [name for name, _ in layers]
        least = chain.least_side(chain.features(model, used)) if used else 1
        self._require_large_enough(least)
        memory.require(
            model,
            used,
            pictures.shapes(pictures.shape),
            optimizer=settings.optimizer,
            pairs=0 if settings.memory_folder else settings.memory,
            tile=settings.tile,
        )
        sizes = synthesis.coarse_to_fine(pictures.shape, settings.scales, 2 * least)
        # A style smaller than the result may be too small at a coarse size.
        self.sizes = [size for size in sizes if min(map(min, pictures.shapes(size))) >= least]

    def _require_large_enough(self, least: int) -> None:
        for shape in self.pictures.shapes(self.pictures.shape):
            if min(shape) < least:
                raise ImagesError(
                    f"Expected pictures of at least {least} pixels for these layers. Received: "
                    f"{shape[0]} x {shape[1]}. Raise --size, or leave out deep layers."
                )

    def evaluate(self, shape: tuple[int, int]) -> evaluation.Evaluate:
        """The objective at one size with its gradient."""
        terms = self.terms(shape)
        content = None
        if any(term.compares for term in terms):
            content = synthesis.as_batch(self.pictures.content(shape))
        return evaluation.evaluator(
            self.model, terms, shape, content=content, tile=self.settings.tile
        )

    def terms(self, shape: tuple[int, int]) -> list[Term]:
        """The objective at one size.

        Raises:
            UsageError: All weights are 0.
        """
        settings = self.settings
        if settings.task == "inversion":
            return self._inversion_terms(shape)
        found = _weighted(self._content_terms(shape), settings.content_weight)
        found += _weighted(self._style_terms(shape), self.style_weight(shape) or 0.0)
        if settings.tv_weight:
            found.append(
                objective.variation_term(settings.tv_weight, (*shape, 3), settings.tv_beta)
            )
        if not found:
            raise UsageError(
                "Expected an objective. Received: only weights of 0. Give content_weight or "
                "style_weight a value."
            )
        return found

    def _inversion_terms(self, shape: tuple[int, int]) -> list[Term]:
        settings = self.settings
        layer, weight = settings.content_layers[0]
        found = synthesis.inversion_terms(
            self.model,
            self.pictures.content(shape),
            layer,
            weight * settings.content_weight,
            tile=settings.tile,
        )
        if settings.norm_weight:
            found.append(objective.norm_term(settings.norm_weight, shape))
        if settings.tv_weight:
            found.append(
                objective.bounded_variation_term(settings.tv_weight, shape, settings.tv_beta)
            )
        return found

    def _content_terms(self, shape: tuple[int, int]) -> list[Term]:
        """The content's terms, content_weight 1."""
        if self.settings.task == "texture":
            return []
        return synthesis.content_terms(self.model, self.settings.content_layers, 1.0, shape=shape)

    def _style_terms(self, shape: tuple[int, int]) -> list[Term]:
        """The styles' terms, style_weight 1."""
        if self.settings.style_weight == 0:
            return []
        settings = self.settings
        return self._shared(
            "style",
            shape,
            lambda: synthesis.style_terms(
                self.model,
                self.pictures.styles(shape),
                settings.style_layers,
                1.0,
                shape=shape,
                loss=settings.style_loss,
                seed=settings.seed,
                tile=settings.tile,
            ),
        )

    def style_weight(self, shape: tuple[int, int]) -> float | None:
        """What the style weight is at one size; None for a task without."""
        settings = self.settings
        if settings.task == "inversion":
            return None
        if settings.style_weight is not None:
            return settings.style_weight
        if settings.task == "texture":
            return 1.0
        content, style = self._shared("worths", shape, lambda: self._worths(shape))
        return strength.style_weight(settings.strength, settings.style_loss, content, style)

    def _worths(self, shape: tuple[int, int]) -> tuple[float, float]:
        """The content loss of the styles, blended, and the style loss of the content."""
        contents, styles = self._content_terms(shape), self._style_terms(shape)
        if not contents or not styles:
            return 0.0, 0.0
        content = synthesis.as_batch(self.pictures.content(shape))
        groups: list[tuple[list[Term], tf.Tensor]] = [(styles, content)]
        blend = self.settings.style_blend
        groups += [
            (contents, synthesis.as_batch(pixels)) for pixels in self.pictures.styles_as(shape)
        ]
        style, *each = evaluation.total_values(
            self.model, groups, content=content, tile=self.settings.tile
        )
        return sum(w * value for w, value in zip(blend, each, strict=True)) / sum(blend), style

    def _shared(self, kind: str, shape: tuple[int, int], make: Any) -> Any:
        """What `make` gives, or what another run with the same targets has made."""
        key = (kind, shape, tuple(getattr(self.settings, name) for name in TARGETS))
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def _weighted(terms: list[Term], factor: float) -> list[Term]:
    return [term._replace(weight=term.weight * factor) for term in terms] if factor else []
