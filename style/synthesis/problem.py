"""One picture's problem: options and pictures -> the objective at each size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from style.objective import layer_geometry, memory_budget, value_and_gradient
from style.objective.evaluation import Objective, References
from style.objective.terms import Term
from style.optimizers.base import Optimizer
from style.synthesis import neighbor_terms, picture_terms, sizes, sliced_terms, strength
from style.synthesis.cache import Cache
from style.synthesis.defaults import as_asked_for
from style.synthesis.inputs import Inputs
from style.synthesis.options import Options, style_losses
from vgg_normalize.errors import UsageError
from vgg_normalize.networks import chain

# What decides the terms besides their weights and size: problems that agree on it share targets.
TARGET_OPTIONS = (
    *("task", "style_scale", "style_blend", "content_layers", "style_layers", "style_loss"),
    *("seed", "preserve_color", "color_root", "tile", "content_loss", "padding", "precision"),
)


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
        self._cache = Cache() if cache is None else cache
        key = ("network", id(model), options.padding, options.precision)
        model, kernels = self._cache.get(key, lambda: (as_asked_for(model, options), {}))
        self.options, self.model, self.inputs = options, model, inputs
        # How evaluations go: kernels made ready for Winograd's convolution serve them all.
        self._evaluation: dict[str, Any] = {"tile": options.tile, "kernels": kernels}
        self._own = Cache()  # of this content alone
        self._references: dict[tuple[int, int], References] = {}  # until they are taken over
        self._digest = "" if cache is None else inputs.digest()
        # Of what the objective is made of besides the content, which may recolour the styles.
        self._style_digest = self._digest
        if cache is not None and options.preserve_color == "none":
            self._style_digest = inputs.digest(content=False)
        self._graphs_are_shared = (
            cache is not None
            and in_memory
            and options.task in ("transfer", "amalgamation")
            and (options.preserve_color, options.content_loss) == ("none", "features")
        )
        self.sizes, self.steps = self._plan(in_memory)

    def _plan(self, in_memory: bool) -> tuple[list[tuple[int, int]], list[int]]:
        """The sizes to optimise in turn and the evaluations at each, checked to be possible."""
        options, model, inputs = self.options, self.model, self.inputs
        content = [] if options.task == "texture" else [name for name, _ in options.content_layers]
        style = [] if options.task == "inversion" else [name for name, _ in options.style_layers]
        used = [*content, *style]
        least = chain.min_image_size(chain.features(model, used)) if used else 1
        if options.padding == "reflect":  # there is something to reflect from two positions on
            least *= 2
        sizes.require_at_least(least, inputs.shapes(inputs.shape))
        multiple = 1
        if options.padding == "wrap" and used:
            multiple = max(layer_geometry.receptive_field(model, used)[0].values())
            sizes.require_multiples(inputs.shape, multiple)
        sliced = sliced_terms.NAME in style_losses(options.style_loss)
        memory_budget.require_memory(
            model,
            used,
            inputs.shapes(inputs.shape),
            optimizer=options.optimizer,
            history_size=options.history_size if in_memory else 0,
            tile=options.tile,
            compared=content,
            projected=style if sliced else [],
        )
        shapes = sizes.coarse_to_fine(
            inputs.shape,
            options.scales,
            2 * least,
            factor=options.scale_factor,
            multiple=multiple,
        )
        # A style smaller than the result may be too small at a coarse size.
        shapes = [size for size in shapes if min(map(min, inputs.shapes(size))) >= least]
        return shapes, sizes.steps_by_size(options.steps, options.coarse_steps, len(shapes))

    def optimizer(
        self, shape: tuple[int, int], make: Callable[[Objective], Optimizer]
    ) -> Optimizer:
        """What `make` makes of the objective at one size.

        The same one with its graphs where only the content differs from an earlier problem's.
        """
        if not self._graphs_are_shared:
            return make(self.evaluate(shape))

        def make_all() -> tuple[Objective, Optimizer, dict[str, tf.Variable]]:
            objective = self.evaluate(shape)
            return objective, make(objective), self._scales(shape)

        objective, optimizer, scales = self._reused("graphs", shape, make_all)
        weights = self.style_weights(shape)
        content = picture_terms.as_batch(self.inputs.content(shape))
        objective.compare_with(content, self._references.pop(shape, None))
        for name, scale in scales.items():
            scale.assign(weights[name])
        return optimizer

    def _reused(self, what: str, shape: tuple[int, int], make: Callable[[], Any]) -> Any:
        """What `make` gives, or what it gave a problem that differs in the content only."""
        if not self._graphs_are_shared:
            return make()
        options = [getattr(self.options, field.name) for field in dataclasses.fields(Options)]
        return self._cache.get((what, shape, id(self.model), self._style_digest, *options), make)

    def _scales(self, shape: tuple[int, int]) -> dict[str, tf.Variable]:
        """The weight of each style loss, as the graphs read it."""

        def make() -> dict[str, tf.Variable]:
            weights = self.style_weights(shape).items()
            return {name: tf.Variable(w, trainable=False, dtype=tf.float64) for name, w in weights}

        return self._reused("scales", shape, make)

    def evaluate(self, shape: tuple[int, int]) -> Objective:
        """The objective at one size with its gradient."""
        terms = self.terms(shape)
        compares = any(term.compares for term in terms)
        content = picture_terms.as_batch(self.inputs.content(shape)) if compares else None
        references = self._references.pop(shape, None)
        return value_and_gradient.make_value_and_gradient(
            *(self.model, terms, shape), content=content, references=references, **self._evaluation
        )

    def renew(self, shape: tuple[int, int]) -> Callable[[int, tf.Tensor], None] | None:
        """(draw, picture) -> None chooses directions and neighbours anew; None: nothing to choose."""
        if self.options.task == "inversion":
            return None
        terms = [term for term in self.terms(shape) if term.renew]
        return partial(_choose_anew, terms) if terms else None

    def terms(self, shape: tuple[int, int]) -> list[Term]:
        """The objective at one size.

        Raises:
            UsageError: All weights are 0.
        """
        options = self.options
        if options.task == "inversion":
            layer, weight = options.content_layers[0]
            terms = picture_terms.inversion_terms(
                self.model,
                self.inputs.content(shape),
                layer,
                weight * options.content_weight,
                tile=options.tile,
            )
        else:
            content = self._content_terms(shape)
            terms = picture_terms.weighted(content, options.content_weight)
            scales = self._scales(shape)
            for name, terms_of_loss in self._style_terms(shape).items():
                if float(scales[name]):
                    terms += [term._replace(scale=scales[name]) for term in terms_of_loss]
        terms += picture_terms.regularizers(options, shape)
        if not terms:
            raise UsageError(
                "Expected an objective. Received: only weights of 0. Give content_weight or "
                "style_weight a value."
            )
        return terms

    def _content_terms(self, shape: tuple[int, int]) -> list[Term]:
        """The content's terms, content_weight 1."""
        options = self.options
        if options.task == "texture":
            return []
        if options.content_loss == "neighbors":
            terms = self._own.get(
                ("neighbors", shape),
                lambda: neighbor_terms.neighbor_terms(
                    self.model,
                    picture_terms.as_batch(self.inputs.content(shape)),
                    self.inputs.styles(shape),
                    options.content_layers,
                    strength=options.strength,
                    tile=options.tile,
                ),
            )
            return list(terms)
        return picture_terms.content_terms(self.model, options.content_layers, 1.0, shape=shape)

    def _style_terms(self, shape: tuple[int, int]) -> dict[str, list[Term]]:
        """The styles' terms by loss, each loss with weight 1."""
        options = self.options
        without = 0 if options.content_loss == "features" else None
        if options.style_weight in (0, without):
            return {}
        names = style_losses(options.style_loss)
        terms = self._shared(
            "style",
            shape,
            lambda: picture_terms.style_terms(
                self.model,
                self.inputs.styles(shape),
                options.style_layers,
                1.0,
                shape=shape,
                loss=",".join(names),
                seed=options.seed,
                tile=options.tile,
            ),
        )
        return {name: [term for term in terms if term.loss == name] for name in names}

    def style_weights(self, shape: tuple[int, int]) -> dict[str, float]:
        """What the weight of each style loss is at one size; empty for a task without style."""
        options = self.options
        neighbors_alone = options.content_loss == "neighbors" and options.style_weight is None
        if options.task == "inversion" or neighbors_alone:
            return {}
        shares = style_losses(options.style_loss)
        if options.style_weight is not None or options.task == "texture":
            weight = 1.0 if options.style_weight is None else options.style_weight
            return {name: weight * share for name, share in shares.items()}
        content, styles = self._own.get(("worths", shape), lambda: self._worths(shape))
        return strength.style_weights(options.strength, shares, content, styles)

    def _worths(self, shape: tuple[int, int]) -> tuple[float, dict[str, float]]:
        """The content loss of the styles, blended, and each style loss of the content."""
        contents, by_loss = self._content_terms(shape), self._style_terms(shape)
        styles = [term for terms in by_loss.values() for term in terms]
        if not contents or not styles:
            return 0.0, {}
        pictures = [self.inputs.content(shape), *self.inputs.styles_resized_to(shape)]
        content, *resized = map(picture_terms.as_batch, pictures)
        _choose_anew(styles, 0, content)  # a picture before may have left later directions

        def make() -> Any:
            groups = [styles, *([contents] * len(resized))]
            return value_and_gradient.make_total_values(
                self.model, groups, shape, **self._evaluation
            )

        totals = self._reused("totals", shape, make)
        (of_content, *of_styles), self._references[shape] = totals(content, resized)
        worths = dict.fromkeys(by_loss, 0.0)
        for term, value in zip(styles, of_content, strict=True):
            worths[term.loss] += value
        blend = self.options.style_blend
        blended = sum(w * sum(values) for w, values in zip(blend, of_styles, strict=True))
        return blended / sum(blend), worths

    def _shared(self, kind: str, shape: tuple[int, int], make: Callable[[], Any]) -> Any:
        """What `make` gives, or what another run with the same targets has made."""
        digest = self._style_digest if kind == "style" else self._digest
        options = (getattr(self.options, name) for name in TARGET_OPTIONS)
        return self._cache.get((kind, shape, digest, *options), make)


def _choose_anew(terms: list[Term], draw: int, picture: tf.Tensor) -> None:
    for choose in dict.fromkeys(term.renew for term in terms if term.renew):
        choose(draw, picture)
