"""One run of `style.apply`: a trained network, contents and styles -> pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from style import colors, contents, image, memory
from style.exported import Loaded
from style.pictures import load_masks
from style.settings import ApplySettings
from vgg_normalize.errors import DevicesError, Error, ImagesError, OutputError, UsageError
from vgg_normalize.output import writing
from vgg_normalize.paths import require_distinct
from vgg_normalize.progress import Heartbeat, Progress, Stop, one_line, say

NO_MEMORY = "Expected enough memory. Received: none left. Use --tile, or lower --size."


def run(settings: ApplySettings, stop: Stop) -> None:
    """Make all pictures.

    Raises:
        Error: What went wrong, with its exit code; of a folder only after all that can be made.
        Interrupted: A signal came; whole pictures stay.
    """
    inputs = {
        "content": settings.content,
        "style": settings.style,
        "content_mask": settings.content_mask,
        "network": settings.network,
    }
    require_distinct(inputs, {"output": settings.output})
    work = contents.of_folder(settings) if os.path.isdir(settings.content) else None
    if work is None:
        image.require_writable_bits(settings.output, settings.bits)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    Heartbeat.doing("loading the network")
    applier = _Applier(settings, Loaded(settings.network))
    Heartbeat.doing("stylising")
    if work is not None:
        _make_all(settings, applier, work, stop)
        return
    with stop.deferred():
        _write(applier, Path(settings.content), Path(settings.output))
        stop.raise_if_wanted()
    say(settings.output)


def _make_all(settings: ApplySettings, applier: _Applier, work: contents.Work, stop: Stop) -> None:
    """All pictures of a folder that can be made."""
    if work.there:
        say(f"{work.there} in {settings.output} already; --overwrite makes them again")
    output, count, skipped = Path(settings.output), len(work.pairs), 0
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    progress = Progress(count + work.there, done=work.there, title="stylising")
    with stop.deferred():
        for done, (name, target) in enumerate(work.pairs, work.there + 1):
            why = _tried(applier, Path(settings.content, name), output / target)
            if why:
                skipped += 1
                say(f"style.apply: skipped {one_line(name)}: {why}")
            progress.update(done)
            stop.raise_if_wanted()
    progress.close()
    say(f"{count - skipped} in {output}" + (f", {skipped} skipped" if skipped else ""))
    _require_few(skipped, count, settings.max_skipped, work.there)


def _require_few(skipped: int, count: int, most: int, there: int) -> None:
    again = "Mend them and run it again, which makes only what is missing"
    if skipped > most:
        raise ImagesError(
            f"Expected at most {most} contents that fail. Received: {skipped} of {count}. {again}, "
            "or allow more with --max_skipped."
        )
    if skipped and skipped == count and not there:
        raise ImagesError(
            f"Expected contents that can be made. Received: none of the {count}. {again}."
        )


def _tried(applier: _Applier, source: Path, target: Path) -> str:
    """Write one picture; or why it cannot be made, where others may."""
    try:
        _write(applier, source, target)
    except OutputError:
        raise
    except Error as error:
        return one_line(error)
    except (MemoryError, tf.errors.ResourceExhaustedError):
        return NO_MEMORY
    return ""


def _write(applier: _Applier, source: Path, target: Path) -> None:
    """Make the picture of a content."""
    picture, bits = image.load(source), applier.settings.bits
    height, width = applier.shape(picture.pixels)
    image.require_fits(target, height, width, bits=bits)
    made = applier.make(picture.pixels, one_line(source.name))
    image.save(target, np.clip(made, 0, 1), profile=picture.profile, bits=bits)


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
        self._plain: list[np.ndarray] = []
        self._said: set[int] = set()

    def _known(self) -> str:
        return ", ".join(self.network.styles)

    def _load(self, path: str) -> np.ndarray:
        pixels = image.fit(image.load(path).pixels, self.settings.style_size)
        if min(pixels.shape[:2]) < self.network.least_style:
            raise ImagesError(
                f"Expected styles of at least {self.network.least_style} pixels. Received: "
                f"{path!r} at {pixels.shape[0]} x {pixels.shape[1]}. Raise --style_size."
            )
        room, needed = memory.available(), self.network.code_memory(pixels.shape[:2])
        if room is not None and needed > room:
            raise DevicesError(
                f"Expected enough memory. Received: {_gib(room)}, and about {_gib(needed)} are "
                f"needed for {path!r} at {pixels.shape[0]} x {pixels.shape[1]} pixels. Lower "
                "--style_size."
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

    def shape(self, content: np.ndarray) -> tuple[int, int]:
        """Height and width of the picture of a content.

        Raises:
            ImagesError: It is too small.
        """
        height, width = content.shape[:2]
        if self.settings.size:
            height, width = image.shape_for(content.shape, self.settings.size)
        least = 4 * self.network.stride
        if min(height, width) < least:
            raise ImagesError(
                f"Expected contents of at least {least} pixels. Received: {height} x {width}. "
                "Raise --size."
            )
        return height, width

    def _need(self, shape: tuple[int, int], tile: int) -> int:
        own = self.settings.alpha < 1
        return self.network.memory(shape, tile=tile, own_code=own, masks=len(self.masks))

    def _tile(self, shape: tuple[int, int], name: str) -> int:
        """The tile by which a picture fits into the memory; 0: whole.

        Raises:
            DevicesError: It does not fit.
        """
        room, tile = memory.available(), self.settings.tile
        if room is None or (needed := self._need(shape, tile)) <= room:
            return tile
        smaller = [one for one in memory.TILES if one < (tile or max(shape))]
        tiles = smaller if self.network.method == "adain" else []
        fitting = next((one for one in tiles if self._need(shape, one) <= room), 0)
        what = f"{_gib(room)}, and about {_gib(needed)} are needed for {shape[0]} x {shape[1]}"
        if tile or not fitting:
            size = f"--size={self._size(shape, room, (tiles or [tile])[-1])}"
            advice = f"--tile={fitting}" if fitting else size
            raise DevicesError(
                f"Expected enough memory. Received: {what} pixels. Use {advice}, or make room."
            )
        if fitting not in self._said:
            self._said.add(fitting)
            say(f"{name}: by tiles of {fitting} pixels, since the memory left is {what} whole")
        return fitting

    def _size(self, shape: tuple[int, int], room: int, tile: int) -> int:
        """The largest --size that fits, about; the smallest where none does."""
        least = 4 * self.network.stride * max(shape) // min(shape) + 1
        sizes = range((max(shape) - 1) // 32 * 32, least, -32)
        fits = (n for n in sizes if self._need(image.shape_for(shape, n), tile) <= room)
        return next(fits, least)

    def make(self, content: np.ndarray, name: str = "content") -> np.ndarray:
        """The picture of one content [H, W, 3].

        Raises:
            ImagesError: It is too small.
            DevicesError: There is too little memory.
        """
        shape = self.shape(content)
        tile = self._tile(shape, name)
        if self.settings.size:
            content = image.fit(content, self.settings.size)
        made = self._blend(content, self._codes(content, tile), tile)
        if self.settings.preserve_color == "luminance":
            return colors.with_luminance(made, content)
        return made

    def _blend(self, content: np.ndarray, codes: list[np.ndarray], tile: int) -> np.ndarray:
        """The content in all styles."""
        if not self.masks:
            blended = np.tensordot(self.blend, np.stack(codes), 1)
            return self.network.transform(content, blended, tile=tile)
        # Each style whole, laid together through the masks: statistics stay those of a picture.
        # Where no mask is white the content shows.
        masks = [image.resize(mask, *content.shape[:2]).clip(0, 1) for mask in self.masks]
        weights = [w * mask for w, mask in zip(self.blend, masks, strict=True)]
        total = np.sum(weights, 0)
        cover = np.where(total > 1e-6, np.sum(masks, 0).clip(0, 1), 0)
        made = content * (1 - cover)
        for code, weight in zip(codes, weights, strict=True):
            share = cover * weight / np.maximum(total, 1e-6)
            made = made + self.network.transform(content, code, tile=tile) * share
        return made

    def _codes(self, content: np.ndarray, tile: int) -> list[np.ndarray]:
        """One code [1, D] for each style, mixed with the content's own by alpha."""
        if self.network.method == "cin":
            eye = np.eye(len(self.network.styles), dtype=np.float32)
            return [eye[row][None] for row in self.rows]
        recolour = {
            "none": lambda style: style,
            "luminance": lambda style: colors.match_luminance(style, content),
            "match": lambda style: colors.match_colors(
                style, content, root=self.settings.color_root
            ),
        }[self.settings.preserve_color]
        codes = self._plain
        if not codes:
            codes = [np.asarray(self.network.code(recolour(style))) for style in self.styles]
        if self.settings.preserve_color == "none":
            self._plain = codes  # for the other contents too
        alpha = self.settings.alpha
        if alpha < 1:
            own = np.asarray(self.network.code(content, tile=tile))
            codes = [alpha * code + (1 - alpha) * own for code in codes]
        return codes


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
