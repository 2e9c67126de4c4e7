"""The pictures that are looked at, at the sizes and in the colours that an objective needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from style.images import colors, resizing
from style.synthesis.options import Options
from style.synthesis.picture_terms import Style
from vgg_normalize.errors import UsageError


class Inputs:
    """Content, styles and masks of one picture.

    All pictures are float32, RGB, [H, W, 3], in [0, 1]; masks are [H, W, 1] in [0, 1].

    Args:
        options: After `defaults.resolve`.
        shape: Height and width of the result, in pixels.
        content: The content, or None for a task without.
        styles: The styles.
        content_masks: Where in the result each style goes; none, or one a style.
        style_masks: Which part of each style is used; none, or one a style.
        init: The picture to begin with where `options.init` is neither "content", "style" nor
            "noise".

    Raises:
        UsageError: A picture to begin with is missing, or the numbers of styles, weights and masks
            differ.
    """

    def __init__(
        self,
        options: Options,
        shape: tuple[int, int],
        *,
        content: np.ndarray | None = None,
        styles: Sequence[np.ndarray] = (),
        content_masks: Sequence[np.ndarray] = (),
        style_masks: Sequence[np.ndarray] = (),
        init: np.ndarray | None = None,
    ) -> None:
        self._options = options
        self.shape = shape
        self._content, self._styles = content, list(styles)
        self._content_masks, self._style_masks = list(content_masks), list(style_masks)
        self._init = init
        if options.init == "content" and content is None:
            raise UsageError(
                "Expected a content picture for `init=content`. Received: none. Use another `init`."
            )
        if options.init == "style" and not self._styles:
            raise UsageError(
                "Expected a style picture for `init=style`. Received: none. Use another `init`."
            )

    def digest(self, *, content: bool = True) -> str:
        """SHA-256 of all pictures and masks, or of those besides content and beginning."""
        sha256 = hashlib.sha256()
        groups: list[Any] = [self._styles]
        if content:
            groups = [[self._content], [self._init], self._styles]
        for group in (*groups, self._content_masks, self._style_masks):
            sha256.update(f"{len(group)} pictures".encode())
            for array in group:
                pixels: Any = np.empty(0) if array is None else np.ascontiguousarray(array)
                sha256.update(str(pixels.shape).encode() + pixels.tobytes())
        return sha256.hexdigest()

    def shapes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of a result of this size, and of each style for it."""
        long_side = max(shape) * self._options.style_scale
        return [shape, *(resizing.shape_for(pixels.shape, long_side) for pixels in self._styles)]

    def content(self, shape: tuple[int, int]) -> np.ndarray:
        """The content at this height and width.

        Raises:
            UsageError: There is none.
        """
        if self._content is None:
            raise UsageError("Expected a content picture. Received: none. Use `content`.")
        return np.clip(resizing.resize(self._content, *shape), 0, 1)

    def styles(self, shape: tuple[int, int]) -> list[Style]:
        """The styles for a result of this height and width, recoloured if that is asked for."""
        options = self._options
        styles = []
        for i, pixels in enumerate(self._styles):
            fitted = resizing.fit(pixels, max(shape) * options.style_scale)
            if options.preserve_color == "luminance":
                fitted = colors.match_luminance(fitted, self.content(shape))
            elif options.preserve_color == "match":
                fitted = colors.match_colors(fitted, self.content(shape), root=options.color_root)
            styles.append(
                Style(
                    fitted,
                    options.style_blend[i],
                    _mask(self._style_masks, i, fitted.shape[:2]),
                    _mask(self._content_masks, i, shape),
                )
            )
        return styles

    def styles_resized_to(self, shape: tuple[int, int]) -> list[np.ndarray]:
        """The styles at this height and width, whatever their aspect."""
        return [
            np.clip(resizing.resize(style.pixels, *shape), 0, 1) for style in self.styles(shape)
        ]

    def initial_image(self, shape: tuple[int, int]) -> np.ndarray:
        """The picture to begin with at this height and width."""
        if self._init is not None:
            return np.clip(resizing.resize(self._init, *shape), 0, 1)
        if self._options.init == "noise":
            return noise(shape, self._options.seed)
        if self._options.init == "style":
            return np.clip(resizing.resize(self._styles[0], *shape), 0, 1)
        return self.content(shape)

    def postprocess(self, pixels: np.ndarray) -> np.ndarray:
        """The result as it is shown and saved, from the pixels that were optimised."""
        if self._options.preserve_color == "luminance":
            return colors.with_luminance(pixels, self.content(pixels.shape[:2]))
        return pixels


def _mask(masks: Sequence[np.ndarray], index: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """A mask [H, W] at this height and width, if there are masks."""
    if not masks:
        return None
    return resizing.resize(masks[index], *shape)[..., 0].clip(0, 1)


def noise(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Grey Gaussian noise, [H, W, 3], mean 0.5 and standard deviation 0.15."""
    random = np.random.Generator(np.random.PCG64([seed, 1]))
    return (0.5 + 0.15 * random.standard_normal((*shape, 3))).astype(np.float32)
