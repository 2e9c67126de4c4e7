"""One run of `style.apply`: a trained network, contents and styles -> pictures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from style.cli import folder_outputs
from style.cli.read_inputs import load_masks
from style.cli.settings import ApplySettings
from style.feedforward.saved_network import SavedNetwork
from style.feedforward.stylizer import Stylizer, load_stylizer, recolor_style
from style.images import colors, reading, resizing, writing
from style.objective import memory_budget
from style.objective.memory_budget import gib
from style.synthesis.defaults import require_one_each
from vgg_normalize.errors import DevicesError
from vgg_normalize.runtime.paths import require_distinct
from vgg_normalize.runtime.progress import Heartbeat, InterruptHandler, one_line, say


def run(settings: ApplySettings, stop: InterruptHandler) -> None:
    """Make all pictures.

    Raises:
        Error: Something failed; in a folder only after every picture that can be made.
        Interrupted: A signal came; finished pictures stay.
    """
    inputs = {
        "content": settings.content,
        "style": settings.style,
        "content_mask": settings.content_mask,
        "network": settings.network,
    }
    require_distinct(inputs, {"output": settings.output})
    read = {"style": settings.style, "content_mask": settings.content_mask}
    work = folder_outputs.plan_folder(settings, read) if os.path.isdir(settings.content) else None
    if work is None:
        writing.require_writable_bits(settings.output, settings.bits)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    Heartbeat.doing("loading the network")
    stylization = _Stylization(settings, load_stylizer(settings.network))
    Heartbeat.doing("stylising")
    if work is not None:
        folder_outputs.make_all(settings, work, stylization.write, stop, program="style.apply")
        return
    with stop.defer():
        stylization.write(Path(settings.content), Path(settings.output))
        stop.raise_if_requested()
    say(settings.output)


class _Stylization:
    """A styliser with the styles of a run, each read once."""

    def __init__(self, settings: ApplySettings, stylizer: Stylizer) -> None:
        self.settings, self.stylizer = settings, stylizer
        self.network: SavedNetwork = stylizer.network
        if settings.style:
            require_one_each("--style_blend", len(settings.style_blend), len(settings.style))
        self.blend = stylizer.require_blend(settings.style_blend, len(settings.style))
        require_one_each("--content_mask", len(settings.content_mask), len(settings.style))
        stylizer.require_options(
            alpha=settings.alpha, tile=settings.tile, preserve_color=settings.preserve_color
        )
        self.masks = load_masks(settings.content_mask)
        self.fixed = self.network.method == "cin"
        self.styles = [] if self.fixed else [self._load(path) for path in settings.style]
        # Codes that do not depend on the content are made once.
        self.codes = stylizer.encode(settings.style) if self.fixed else []
        self._announced: set[int] = set()

    def _load(self, path: str) -> np.ndarray:
        pixels = reading.load(path).pixels
        shape = resizing.shape_for(pixels.shape, self.settings.style_size)
        self.stylizer.require_style_size(shape, repr(path))
        room, needed = memory_budget.available(), self.network.code_memory(shape)
        if room is not None and needed > room:
            raise DevicesError(
                f"Expected enough memory. Received: {gib(room)}, and about {gib(needed)} are "
                f"needed for {path!r} at {shape[0]} x {shape[1]} pixels. Lower --style_size."
            )
        return resizing.fit(pixels, self.settings.style_size)

    def write(self, source: Path, target: Path) -> None:
        """Make the picture of a content.

        Raises:
            ImagesError: It cannot be read, or is too small.
            OutputError: The picture cannot be written.
            DevicesError: There is too little memory.
        """
        picture, bits = reading.load(source), self.settings.bits
        height, width = picture.pixels.shape[:2]
        if self.settings.size:
            height, width = resizing.shape_for((height, width), self.settings.size)
        self.stylizer.require_content_size((height, width))
        writing.require_fits(target, height, width, bits=bits)
        tile = self._tile((height, width), one_line(source.name))
        content = picture.pixels
        if self.settings.size:
            content = resizing.fit(content, self.settings.size)
        image = self.stylizer.render(
            content,
            self._codes(content),
            self.blend,
            alpha=self.settings.alpha,
            masks=self.masks,
            tile=tile,
        )
        if self.settings.preserve_color == "luminance":
            image = colors.with_luminance(image, content)
        writing.save(target, np.clip(image, 0, 1), profile=picture.profile, bits=bits)

    def _codes(self, content: np.ndarray) -> list[np.ndarray]:
        """One code [1, D] for each style."""
        if self.codes:
            return self.codes
        preserve, root = self.settings.preserve_color, self.settings.color_root
        codes = self.stylizer.encode(
            [recolor_style(style, content, preserve, root) for style in self.styles]
        )
        if preserve == "none":
            self.codes = codes
        return codes

    def _need(self, shape: tuple[int, int], tile: int) -> int:
        own_code = self.settings.alpha < 1
        return self.network.memory(shape, tile=tile, own_code=own_code, masks=len(self.masks))

    def _tile(self, shape: tuple[int, int], name: str) -> int:
        """The side in pixels of tiles by which a picture fits in memory; 0: the whole picture.

        Raises:
            DevicesError: It does not fit.
        """
        room, tile = memory_budget.available(), self.settings.tile
        if room is None or (needed := self._need(shape, tile)) <= room:
            return tile
        smaller = [side for side in memory_budget.TILES if side < (tile or max(shape))]
        tiles = smaller if self.network.method == "adain" else []
        fitting = next((side for side in tiles if self._need(shape, side) <= room), 0)
        what = f"{gib(room)}, and about {gib(needed)} are needed for {shape[0]} x {shape[1]}"
        if tile or not fitting:
            size = f"--size={self._size(shape, room, (tiles or [tile])[-1])}"
            advice = f"--tile={fitting}" if fitting else size
            raise DevicesError(
                f"Expected enough memory. Received: {what} pixels. Use {advice}, or make room."
            )
        if fitting not in self._announced:
            self._announced.add(fitting)
            say(f"{name}: by tiles of {fitting} pixels, since the memory left is {what} whole")
        return fitting

    def _size(self, shape: tuple[int, int], room: int, tile: int) -> int:
        """About the largest --size that fits, or the smallest there is if none does."""
        smallest = 4 * self.network.stride * max(shape) // min(shape) + 1
        sizes = range((max(shape) - 1) // 32 * 32, smallest, -32)
        fits = (n for n in sizes if self._need(resizing.shape_for(shape, n), tile) <= room)
        return next(fits, smallest)
