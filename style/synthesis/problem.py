"""One picture's problem: options and pictures -> the objective at each size."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import keras
import tensorflow as tf

from style.images import resizing
from style.objective import memory_budget, value_and_gradient
from style.objective import terms as objective
from style.objective.terms import Term
from style.synthesis import picture_terms, strength
from style.synthesis.inputs import Inputs
from style.synthesis.options import (
    CONTENT_LAYERS,
    INITS,
    STYLE_LAYERS,
    TV_WEIGHTS,
    UNUSED,
    Layers,
    Options,
)
from vgg_normalize.errors import ImagesError, NetworkError, UsageError
from vgg_normalize.networks import chain

# What decides the terms besides their weights and size: problems that agree on it share targets.
TARGET_OPTIONS = (
    *("task", "style_scale", "style_blend", "content_layers", "style_layers", "style_loss"),
    *("seed", "preserve_color", "color_root", "tile"),
)
Cache = dict[Any, Any]
AnyOptions = TypeVar("AnyOptions", bound=Options)


def resolve(options: AnyOptions, model: keras.Model, *, styles: int) -> AnyOptions:
    """The options with every default that depends on the task or the network filled in.

    What the task does not use is as if it had not been given.

    Args:
        options: As they were given.
        model: The network.
        styles: How many style pictures there are.

    Raises:
        UsageError: No weight of the styles is above 0, or there is not one for each.
        NetworkError: The network has no such layer.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(options)}
    unused = UNUSED[options.task]
    options = dataclasses.replace(
        options, **{name: defaults[name] for name in unused if name in defaults}
    )
    blend = options.style_blend
    if "style" not in unused:
        blend = blend or (1.0,) * styles
        require_one_each("style_blend", len(blend), styles)
        if not sum(blend) > 0:
            raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
    names = [stage.layer.name for stage in chain.stages(model)]
    tv_weight = options.tv_weight
    return dataclasses.replace(
        options,
        style_blend=blend,
        content_layers=resolve_layers(options.content_layers, CONTENT_LAYERS, names),
        style_layers=resolve_layers(options.style_layers, STYLE_LAYERS, names),
        tv_weight=TV_WEIGHTS[options.task] if tv_weight is None else tv_weight,
        init=options.init or INITS[options.task],
    )


def require_one_each(what: str, count: int, styles: int) -> None:
    """Raises UsageError where there is something, but not one for each style."""
    if count and count != styles:
        raise UsageError(
            f"Expected {styles} in {what}, one for each style. Received: {count}. Give as many as "
            "styles."
        )


def resolve_layers(given: Layers, default: Layers, names: list[str]) -> Layers:
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
        options: After `resolve`.
        model: The network.
        inputs: Its pictures.
        in_memory: Whether L-BFGS's history is in memory, for the estimate of what is needed.
        cache: Where what several problems with the same pictures can share is kept.

    Raises:
        ImagesError: A picture is too small for the layers.
        DevicesError: The memory will not do.
    """

    def __init__(
        self,
        options: Options,
        model: keras.Model,
        inputs: Inputs,
        *,
        in_memory: bool = True,
        cache: Cache | None = None,
    ) -> None:
        self.options, self.model, self.inputs = options, model, inputs
        self._cache: Cache = {} if cache is None else cache
        self._digest = None if cache is None else inputs.digest()
        layers = {
            "inversion": options.content_layers,
            "texture": options.style_layers,
        }.get(options.task, (*options.content_layers, *options.style_layers))
        used = [name for name, _ in layers]
        least = chain.min_image_size(chain.features(model, used)) if used else 1
        self._require_large_enough(least)
        memory_budget.require_memory(
            model,
            used,
            inputs.shapes(inputs.shape),
            optimizer=options.optimizer,
            history_size=options.history_size if in_memory else 0,
            tile=options.tile,
        )
        sizes = coarse_to_fine(inputs.shape, options.scales, 2 * least)
        # A style smaller than the result may be too small at a coarse size.
        self.sizes = [size for size in sizes if min(map(min, inputs.shapes(size))) >= least]

    def _require_large_enough(self, least: int) -> None:
        for shape in self.inputs.shapes(self.inputs.shape):
            if min(shape) < least:
                raise ImagesError(
                    f"Expected pictures of at least {least} pixels for these layers. Received: "
                    f"{shape[0]} x {shape[1]}. Raise --size, or leave out deep layers."
                )

    def evaluate(self, shape: tuple[int, int]) -> value_and_gradient.ValueAndGradient:
        """The objective at one size with its gradient."""
        terms = self.terms(shape)
        content = None
        if any(term.compares for term in terms):
            content = picture_terms.as_batch(self.inputs.content(shape))
        return value_and_gradient.make_value_and_gradient(
            self.model, terms, shape, content=content, tile=self.options.tile
        )

    def terms(self, shape: tuple[int, int]) -> list[Term]:
        """The objective at one size.

        Raises:
            UsageError: All weights are 0.
        """
        options = self.options
        if options.task == "inversion":
            return self._inversion_terms(shape)
        terms = _weighted(self._content_terms(shape), options.content_weight)
        terms += _weighted(self._style_terms(shape), self.style_weight(shape) or 0.0)
        if options.tv_weight:
            terms.append(objective.tv_term(options.tv_weight, (*shape, 3), options.tv_beta))
        if not terms:
            raise UsageError(
                "Expected an objective. Received: only weights of 0. Give content_weight or "
                "style_weight a value."
            )
        return terms

    def _inversion_terms(self, shape: tuple[int, int]) -> list[Term]:
        options = self.options
        layer, weight = options.content_layers[0]
        terms = picture_terms.inversion_terms(
            self.model,
            self.inputs.content(shape),
            layer,
            weight * options.content_weight,
            tile=options.tile,
        )
        if options.norm_weight:
            terms.append(objective.norm_term(options.norm_weight, shape))
        if options.tv_weight:
            terms.append(objective.normalized_tv_term(options.tv_weight, shape, options.tv_beta))
        return terms

    def _content_terms(self, shape: tuple[int, int]) -> list[Term]:
        """The content's terms, content_weight 1."""
        if self.options.task == "texture":
            return []
        return picture_terms.content_terms(
            self.model, self.options.content_layers, 1.0, shape=shape
        )

    def _style_terms(self, shape: tuple[int, int]) -> list[Term]:
        """The styles' terms, style_weight 1."""
        if self.options.style_weight == 0:
            return []
        options = self.options
        return self._shared(
            "style",
            shape,
            lambda: picture_terms.style_terms(
                self.model,
                self.inputs.styles(shape),
                options.style_layers,
                1.0,
                shape=shape,
                loss=options.style_loss,
                seed=options.seed,
                tile=options.tile,
            ),
        )

    def style_weight(self, shape: tuple[int, int]) -> float | None:
        """What the style weight is at one size; None for a task without."""
        options = self.options
        if options.task == "inversion":
            return None
        if options.style_weight is not None:
            return options.style_weight
        if options.task == "texture":
            return 1.0
        content, style = self._shared("worths", shape, lambda: self._worths(shape))
        return strength.style_weight(options.strength, options.style_loss, content, style)

    def _worths(self, shape: tuple[int, int]) -> tuple[float, float]:
        """The content loss of the styles, blended, and the style loss of the content."""
        contents, styles = self._content_terms(shape), self._style_terms(shape)
        if not contents or not styles:
            return 0.0, 0.0
        content = picture_terms.as_batch(self.inputs.content(shape))
        groups: list[tuple[list[Term], tf.Tensor]] = [(styles, content)]
        blend = self.options.style_blend
        groups += [
            (contents, picture_terms.as_batch(pixels))
            for pixels in self.inputs.styles_resized_to(shape)
        ]
        style, *each = value_and_gradient.total_values(
            self.model, groups, content=content, tile=self.options.tile
        )
        return sum(w * value for w, value in zip(blend, each, strict=True)) / sum(blend), style

    def _shared(self, kind: str, shape: tuple[int, int], make: Any) -> Any:
        """What `make` gives, or what another run with the same targets has made."""
        key = (
            kind,
            shape,
            self._digest,
            tuple(getattr(self.options, name) for name in TARGET_OPTIONS),
        )
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]


def coarse_to_fine(shape: tuple[int, int], scales: int, least: int) -> list[tuple[int, int]]:
    """Sizes of the pictures to optimise in turn: halves, the last one whole.

    Args:
        shape: Of the result.
        scales: How many; fewer where a side would fall below `least`.
        least: In pixels.
    """
    sizes = [
        resizing.shape_for(shape, max(shape) / 2**halvings) for halvings in reversed(range(scales))
    ]
    return [size for size in sizes if min(size) >= least] or [shape]


def _weighted(terms: list[Term], factor: float) -> list[Term]:
    return [term._replace(weight=term.weight * factor) for term in terms] if factor else []
