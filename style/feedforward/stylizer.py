"""Stylising pictures with a trained network: contents and styles -> pictures.

All pictures are float32, RGB, [H, W, 3], in [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from style.feedforward.saved_network import SavedNetwork
from style.images import colors, resizing
from vgg_normalize.errors import ImagesError, UsageError

Styles = np.ndarray | str | Sequence[np.ndarray | str]
# Sum of mask weights below which the content shows.
_MIN_COVERAGE = 1e-6


def load_stylizer(directory: str | os.PathLike[str]) -> Stylizer:
    """Load a network that `style.train` saved.

    Args:
        directory: The directory that `style.train` wrote.

    Raises:
        NetworkError: There is no such network, or it is damaged.
    """
    return Stylizer(SavedNetwork(os.fspath(directory)))


class Stylizer:
    """Renders contents in styles: `stylizer(content, style)`.

    Args:
        network: A trained network, as it was saved.
    """

    def __init__(self, network: SavedNetwork) -> None:
        self.network = network

    @property
    def known_styles(self) -> list[str]:
        """The names of the styles that a network of fixed styles (CIN) was trained on."""
        return list(self.network.styles)

    def __call__(
        self,
        content: np.ndarray,
        styles: Styles,
        *,
        weights: Sequence[float] | None = None,
        alpha: float = 1.0,
        tile: int = 0,
    ) -> np.ndarray:
        """Render the content in a style, or in a blend of several.

        Args:
            content: Picture [H, W, 3]; each side is at least four strides of the network.
            styles: One style or several: pictures [H', W', 3], or for a network of fixed styles
                names from `known_styles`.
            weights: Weight of each style, 0 or more and not all 0; default: equal.
            alpha: Strength of the style, from 0 (the content) to 1 (the style); for CIN always 1.
            tile: Side in pixels of the tiles that bound the memory (AdaIN only); 0: no tiles.

        Returns:
            The picture, [H, W, 3], in [0, 1].

        Raises:
            UsageError: Weights, alpha or tile do not fit the network, or a style is unknown.
            ImagesError: A picture is too small.
        """
        several = [styles] if isinstance(styles, np.ndarray | str) else list(styles)
        blend = self.require_blend(weights or (), len(several))
        self.require_options(alpha=alpha, tile=tile)
        self.require_content_size(content.shape)
        codes = self.encode(several)
        return self.render(content, codes, blend, alpha=alpha, tile=tile)

    def require_blend(self, weights: Sequence[float], styles: int) -> np.ndarray:
        """Check the weights of styles and scale them to add up to 1.

        Args:
            weights: One for each style; none: equal weights.
            styles: Number of styles.

        Raises:
            UsageError: There is not one for each style, or none above 0.
        """
        if not styles:
            known = ", ".join(self.known_styles)
            raise UsageError(f"Expected `style`. Received: none. Name {known or 'a picture'}.")
        blend = np.array(tuple(weights) or (1.0,) * styles, float)
        if len(blend) != styles:
            raise UsageError(
                f"Expected {styles} in style_blend, one for each style. Received: {len(blend)}. "
                "Give as many as styles."
            )
        if not (blend.sum() > 0 and (blend >= 0).all()):
            raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
        return blend / blend.sum()

    def require_options(self, *, alpha: float, tile: int, preserve_color: str = "none") -> None:
        """Raise UsageError for options that this kind of network does not support."""
        method = self.network.method
        if tile and method != "adain":
            raise UsageError(
                f"Expected `tile=0` of a network of the method {method}. Received: {tile}. Its "
                "normalisations look at the whole picture at every layer: lower `size`, or use an "
                "adain network."
            )
        if method == "cin" and (alpha != 1 or preserve_color == "match"):
            raise UsageError(
                "Expected `alpha=1` and no `preserve_color=match` of a network of the method cin. "
                f"Received: alpha={alpha}, preserve_color={preserve_color}. Its styles are fixed: "
                "use `style_blend` or `preserve_color=luminance`."
            )

    def require_content_size(self, shape: tuple[int, ...]) -> None:
        """Raise ImagesError if a content of this height and width is too small."""
        min_size = 4 * self.network.stride
        if min(shape[:2]) < min_size:
            raise ImagesError(
                f"Expected contents of at least {min_size} pixels. Received: {shape[0]} x {shape[1]}. "
                "Raise `size`."
            )

    def encode(self, styles: Sequence[np.ndarray | str]) -> list[np.ndarray]:
        """The code [1, D] of each style: a picture, or for fixed styles a name.

        Raises:
            UsageError: A name is unknown, or there are names where pictures belong or the reverse.
            ImagesError: A picture is too small.
        """
        if self.network.method == "cin":
            eye = np.eye(len(self.network.styles), dtype=np.float32)
            return [eye[index][None] for index in self._style_indices(styles)]
        codes = []
        for style in styles:
            if isinstance(style, str):
                raise UsageError(
                    f"Expected a style as pixels. Received: {style!r}. Read it with load_image."
                )
            self.require_style_size(style.shape, "a style")
            codes.append(np.asarray(self.network.code(style)))
        return codes

    def require_style_size(self, shape: tuple[int, ...], what: str) -> None:
        """Raise ImagesError if a style of this height and width is too small."""
        min_size = self.network.min_style_size
        if min(shape[:2]) < min_size:
            raise ImagesError(
                f"Expected styles of at least {min_size} pixels. Received: {what} at {shape[0]} x "
                f"{shape[1]}. Raise `style_size`."
            )

    def _style_indices(self, styles: Sequence[np.ndarray | str]) -> list[int]:
        """The indices of the named styles."""
        names = [Path(name).stem for name in self.network.styles]
        stems = [Path(style).stem if isinstance(style, str) else "a picture" for style in styles]
        unknown = [
            str(style) if isinstance(style, str) else "a picture"
            for style, stem in zip(styles, stems, strict=True)
            if stem not in names
        ]
        if unknown:
            raise UsageError(
                f"Expected styles that this network knows: {', '.join(self.known_styles)}. "
                f"Received: {', '.join(unknown)}. Choose from these."
            )
        return [names.index(stem) for stem in stems]

    def render(
        self,
        content: np.ndarray,
        codes: Sequence[np.ndarray],
        blend: np.ndarray,
        *,
        alpha: float = 1.0,
        masks: Sequence[np.ndarray] = (),
        tile: int = 0,
    ) -> np.ndarray:
        """Render a content with the codes z_i of styles and their weights w_i.

        Without masks the codes are blended: z = sum_i w_i z_i.  With masks m_i each style is
        rendered whole, as y_i, so that its statistics are those of a whole picture, and the
        pictures are blended over the content c:

            y = c (1 - m) + m sum_i w_i m_i y_i / sum_i w_i m_i,  m = min(1, sum_i m_i)

        Args:
            content: Picture [H, W, 3].
            codes: The code [1, D] of each style, see `encode`.
            blend: The weight of each style; they add up to 1.
            alpha: As in `__call__`: each code becomes alpha z_i + (1 - alpha) z(content).
            masks: The mask [H', W', 1] in [0, 1] of each style, or none.
            tile: As in `__call__`.
        """
        if alpha < 1:
            content_code = np.asarray(self.network.code(content, tile=tile))
            codes = [alpha * code + (1 - alpha) * content_code for code in codes]
        if not masks:
            mixed = np.tensordot(blend, np.stack(codes), 1)
            return self.network.transform(content, mixed, tile=tile)
        resized = [resizing.resize(mask, *content.shape[:2]).clip(0, 1) for mask in masks]
        weights = [weight * mask for weight, mask in zip(blend, resized, strict=True)]
        total = np.sum(weights, 0)
        cover = np.where(total > _MIN_COVERAGE, np.sum(resized, 0).clip(0, 1), 0)
        image = content * (1 - cover)
        for code, weight in zip(codes, weights, strict=True):
            share = cover * weight / np.maximum(total, _MIN_COVERAGE)
            image = image + self.network.transform(content, code, tile=tile) * share
        return image


def recolor_style(
    style: np.ndarray, content: np.ndarray, preserve_color: str, color_root: str
) -> np.ndarray:
    """Recolour a style picture so that the content's colours are kept, as `preserve_color` says.

    Args:
        style: Picture [H, W, 3].
        content: Picture [H', W', 3].
        preserve_color: "none" (the style as it is), "luminance" (in grey, with the content's mean
            and deviation) or "match" (with the content's mean and covariance of colours).
        color_root: As in `colors.match_colors`.
    """
    if preserve_color == "luminance":
        return colors.match_luminance(style, content)
    if preserve_color == "match":
        return colors.match_colors(style, content, root=color_root)
    return style
