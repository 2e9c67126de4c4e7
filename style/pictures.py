"""The pictures that a run reads, at the sizes and in the colours that it needs."""

from __future__ import annotations

import hashlib

import numpy as np

from style import colors, image, synthesis
from style.settings import Settings
from vgg_normalize.errors import ImagesError, UsageError


class Pictures:
    """The pictures that a run reads, checked before any work."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        content = image.load(settings.content) if settings.content else None
        styles = [image.load(path) for path in settings.style]
        first = content or styles[0]
        self.profile = first.profile
        self.shape = image.shape_for(first.pixels.shape, settings.size)
        self._content = None if content is None else content.pixels
        self._styles = [style.pixels for style in styles]
        self._content_masks = load_masks(settings.content_mask)
        self._style_masks = load_masks(settings.style_mask)
        custom = settings.init not in ("content", "style", "noise")
        self._init = image.load(settings.init or "").pixels if custom else None
        if settings.init == "content" and content is None:
            raise UsageError(
                "Expected init noise, style or a picture. Received: content. Change it."
            )
        if settings.init == "style" and not styles:
            raise UsageError(
                "Expected init noise, content or a picture. Received: style. Change it."
            )

    def digest(self) -> str:
        """Of all that was read."""
        found = hashlib.sha256()
        groups = ([self._content], [self._init], self._styles)
        for group in (*groups, self._content_masks, self._style_masks):
            found.update(f"{len(group)} pictures".encode())
            for array in group:
                pixels = np.empty(0) if array is None else np.ascontiguousarray(array)
                found.update(str(pixels.shape).encode() + pixels.tobytes())
        return found.hexdigest()

    def shapes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Of a result of this size, and of the styles for it."""
        long_side = max(shape) * self.settings.style_scale
        return [shape, *(image.shape_for(pixels.shape, long_side) for pixels in self._styles)]

    def content(self, shape: tuple[int, int]) -> np.ndarray:
        """The content at this size."""
        if self._content is None:
            raise UsageError("Expected a content picture. Received: none. Use --content.")
        return np.clip(image.resize(self._content, *shape), 0, 1)

    def styles(self, shape: tuple[int, int]) -> list[synthesis.Style]:
        """The styles for a result of this size, recoloured if that is asked for."""
        found = []
        for i, pixels in enumerate(self._styles):
            fitted = image.fit(pixels, max(shape) * self.settings.style_scale)
            if self.settings.preserve_color == "luminance":
                fitted = colors.match_luminance(fitted, self.content(shape))
            elif self.settings.preserve_color == "match":
                fitted = colors.match_colors(
                    fitted, self.content(shape), root=self.settings.color_root
                )
            masks, places = self._style_masks, self._content_masks
            found.append(
                synthesis.Style(
                    fitted,
                    self.settings.style_blend[i],
                    image.resize(masks[i], *fitted.shape[:2])[..., 0].clip(0, 1) if masks else None,
                    image.resize(places[i], *shape)[..., 0].clip(0, 1) if places else None,
                )
            )
        return found

    def styles_as(self, shape: tuple[int, int]) -> list[np.ndarray]:
        """The styles brought to the size of the result, whatever their aspect."""
        return [np.clip(image.resize(style.pixels, *shape), 0, 1) for style in self.styles(shape)]

    def first(self, shape: tuple[int, int]) -> np.ndarray:
        """The picture to begin with."""
        if self._init is not None:
            return np.clip(image.resize(self._init, *shape), 0, 1)
        if self.settings.init == "noise":
            return synthesis.noise(shape, self.settings.seed)
        if self.settings.init == "style":
            return np.clip(image.resize(self._styles[0], *shape), 0, 1)
        return self.content(shape)

    def finished(self, pixels: np.ndarray) -> np.ndarray:
        """The result as it is saved."""
        if self.settings.preserve_color == "luminance":
            return colors.with_luminance(pixels, self.content(pixels.shape[:2]))
        return pixels


def load_masks(paths: tuple[str, ...]) -> list[np.ndarray]:
    """Masks [H, W, 1] in [0, 1]: the luma of pictures, each with something white."""
    masks = []
    for path in paths:
        mask = image.load(path).pixels @ colors.LUMA
        if not mask.max() > 0:
            raise ImagesError(
                f"Expected a mask with something white. Received: {path!r}, all black. Correct it."
            )
        masks.append(mask[..., None])
    return masks
