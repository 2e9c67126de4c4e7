"""One run of `style.apply`: a trained network, contents and styles -> pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from style import image
from style.exported import Loaded
from style.pictures import load_masks
from style.settings import ApplySettings
from vgg_normalize.errors import ImagesError, UsageError
from vgg_normalize.progress import Progress, Stop, say


def run(settings: ApplySettings, stop: Stop) -> None:
    """Make all pictures.

    Raises:
        Error: What went wrong, with its exit code.
        Interrupted: A signal came; whole pictures stay.
    """
    contents = _contents(settings)
    for _, target in contents:
        image.require_writable_bits(target, settings.bits)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    network = Loaded(settings.network)
    applier = _Applier(settings, network)
    progress = Progress(len(contents), title="stylising")
    with stop.deferred():
        for done, (source, target) in enumerate(contents, 1):
            picture = image.load(source)
            made = applier.make(picture.pixels)
            image.save(target, made, profile=picture.profile, bits=settings.bits)
            progress.update(done)
            stop.raise_if_wanted()
    progress.close()
    say(f"{len(contents)} in {settings.output}" if len(contents) > 1 else settings.output)


def _contents(settings: ApplySettings) -> list[tuple[Path, Path]]:
    """Each content and its output."""
    content, output = Path(settings.content), Path(settings.output)
    if not content.is_dir():
        return [(content, output)]
    if not output.is_dir():
        raise UsageError(
            f"Expected a directory as --output for a folder of contents. Received: {output}, "
            "which is none. Create it first."
        )
    found = sorted(p for p in content.iterdir() if p.suffix.lower() in image.READ_SUFFIXES)
    if not found:
        raise ImagesError(
            f"Expected pictures. Received: no images under {str(content)!r}. Check --content."
        )
    targets = [(path, output / f"{path.stem}.png") for path in found]
    twice = {target for _, target in targets if [t for _, t in targets].count(target) > 1}
    if twice:
        raise UsageError(
            f"Expected contents of different names. Received: several for {sorted(twice)[0]}. "
            "Rename one."
        )
    return targets


class _Applier:
    """The styles, ready."""

    def __init__(self, settings: ApplySettings, network: Loaded) -> None:
        self.settings, self.network = settings, network
        if not settings.style:
            raise UsageError(
                f"Expected --style. Received: none. Name {self._known() or 'a picture'}."
            )
        blend = settings.style_blend or tuple(1.0 for _ in settings.style)
        for name, given in (("style_blend", blend), ("content_mask", settings.content_mask)):
            if given and len(given) != len(settings.style):
                raise UsageError(
                    f"Expected {len(settings.style)} in --{name}, one for each style. Received: "
                    f"{len(given)}. Give as many as styles."
                )
        if not sum(blend) > 0:
            raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
        self.blend = np.array(blend) / sum(blend)
        if settings.tile and network.method != "adain":
            raise UsageError(
                f"Expected --tile=0 of a network of the method {network.method}. Received: "
                f"{settings.tile}. Its normalisations look at the whole picture at every layer: "
                "lower --size, or use an adain network."
            )
        if network.method == "cin" and (settings.alpha != 1 or settings.preserve_color == "match"):
            raise UsageError(
                "Expected --alpha=1 and no --preserve_color=match of a network of the method cin. "
                f"Received: alpha={settings.alpha}, preserve_color={settings.preserve_color}. Its "
                "styles are fixed: use --style_blend or --preserve_color=luminance."
            )
        self.masks = load_masks(settings.content_mask)
        self.styles = [] if network.method == "cin" else [self._load(p) for p in settings.style]
        self.rows = self._rows() if network.method == "cin" else []

    def _known(self) -> str:
        return ", ".join(self.network.styles)

    def _load(self, path: str) -> np.ndarray:
        pixels = image.fit(image.load(path).pixels, self.settings.style_size)
        if min(pixels.shape[:2]) < self.network.least_style:
            raise ImagesError(
                f"Expected styles of at least {self.network.least_style} pixels. Received: "
                f"{path!r} at {pixels.shape[0]} x {pixels.shape[1]}. Raise --style_size."
            )
        return pixels

    def _rows(self) -> list[int]:
        """The numbers of the named styles."""
        names = [Path(name).stem for name in self.network.styles]
        unknown = [style for style in self.settings.style if Path(style).stem not in names]
        if unknown:
            raise UsageError(
                f"Expected styles that this network knows: {self._known()}. Received: "
                f"{', '.join(unknown)}. Choose from these."
            )
        return [names.index(Path(style).stem) for style in self.settings.style]

    def make(self, content: np.ndarray) -> np.ndarray:
        """The picture of one content [H, W, 3]."""
        settings = self.settings
        if settings.size:
            content = image.fit(content, settings.size)
        least = 4 * self.network.stride
        if min(content.shape[:2]) < least:
            raise ImagesError(
                f"Expected contents of at least {least} pixels. Received: {content.shape[0]} x "
                f"{content.shape[1]}. Raise --size."
            )
        codes = self._codes(content)
        if self.masks:
            # Each style whole, laid together through the masks: statistics stay those of a picture.
            # Where no mask is white the content shows.
            masks = [image.resize(mask, *content.shape[:2]).clip(0, 1) for mask in self.masks]
            weights = [w * mask for w, mask in zip(self.blend, masks, strict=True)]
            total = np.sum(weights, 0)
            cover = np.where(total > 1e-6, np.sum(masks, 0).clip(0, 1), 0)
            made = content * (1 - cover)
            for code, weight in zip(codes, weights, strict=True):
                share = cover * weight / np.maximum(total, 1e-6)
                made = made + self._transform(content, code) * share
        else:
            blended = np.tensordot(self.blend, np.stack(codes), 1)
            made = self._transform(content, blended)
        if settings.preserve_color == "luminance":
            return image.with_luminance(made, content)
        return made

    def _transform(self, content: np.ndarray, code: np.ndarray) -> np.ndarray:
        return self.network.transform(content, code, tile=self.settings.tile)

    def _codes(self, content: np.ndarray) -> list[np.ndarray]:
        """One code [1, D] for each style, mixed with the content's own by alpha."""
        if self.network.method == "cin":
            eye = np.eye(len(self.network.styles), dtype=np.float32)
            return [eye[row][None] for row in self.rows]
        recolour = {
            "none": lambda style: style,
            "luminance": lambda style: image.match_luminance(style, content),
            "match": lambda style: image.match_colors(
                style, content, root=self.settings.color_root
            ),
        }[self.settings.preserve_color]
        codes = [np.asarray(self.network.code(recolour(style))) for style in self.styles]
        alpha = self.settings.alpha
        if alpha < 1:
            own = np.asarray(self.network.code(content))
            codes = [alpha * code + (1 - alpha) * own for code in codes]
        return codes
