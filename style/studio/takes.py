"""Takes: pictures in the making, what each was asked for, and what is offered of it."""

from __future__ import annotations

import dataclasses
import enum
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

import style
from style.cli.read_inputs import load_masks
from style.cli.settings import Settings
from style.images import resizing
from style.studio import flag_files
from style.synthesis.defaults import resolve_layers
from style.synthesis.options import CONTENT_LAYERS, Options
from vgg_normalize.errors import Error, UsageError
from vgg_normalize.networks import chain
from vgg_normalize.runtime.command import as_labels

OPTIONS = [field.name for field in dataclasses.fields(Options) if field.name != "task"]


class Stage(enum.Enum):
    """How a take stands, in words."""

    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"


class Point(NamedTuple):
    """A take after one step.

    Attributes:
        evaluations: Of the objective.
        seconds: That these took.
        loss: The objective.
        terms: What each kind of term adds to it.
    """

    evaluations: int
    seconds: float
    loss: float
    terms: dict[str, float]


class Take:
    """One picture in the making.

    Its pictures are copied into its folder, so that its flag file finds them whatever becomes of
    the uploads.

    Args:
        number: From 1; what it is called by.
        folder: A new directory of its own.
        asked: What was asked for, with the uploaded files; `output` is set here.

    Attributes:
        stage: How it stands.
        message: Why it ended, in a sentence.
        image: The picture so far, float32, [H, W, 3], in [0, 1]; None before the first.
        evaluations: Of the objective.
        seconds: That these took, without waiting and standing still.
        curve: A point for each step.
    """

    def __init__(self, number: int, folder: Path, asked: Settings) -> None:
        self.number, self.folder, self.asked = number, folder, asked
        self.settings = _with_copies(asked, folder)
        self.stage, self.message = Stage.WAITING, ""
        self.image: np.ndarray | None = None
        self.evaluations, self.seconds = 0, 0.0
        self.curve: list[Point] = []
        self._results: Iterator[style.Result] | None = None
        self._stop = threading.Event()
        self._write_flags()

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"Take {self.number}"

    @property
    def picture(self) -> Path:
        """The file that the picture is saved in whenever the take stands still."""
        return self.folder / f"take_{self.number:03}.png"

    @property
    def flagfile(self) -> Path:
        """The flags with which `python -m style` makes the same picture."""
        return self.folder / f"take_{self.number:03}.cfg"

    @property
    def can_go_on(self) -> bool:
        """Whether the next step would be the one that an uninterrupted take had taken."""
        return self.stage is Stage.STOPPED and self._results is not None

    def seconds_left(self) -> float | None:
        """An estimate of the remaining time; None where there is nothing to go by."""
        if self.stage is not Stage.RUNNING or not self.evaluations:
            return None
        return self.seconds / self.evaluations * (self.settings.steps - self.evaluations)

    def stop(self) -> None:
        """Stand still after the current step."""
        self._stop.set()

    def forget_state(self) -> None:
        """Free the memory of the optimiser; a later take can only begin with the picture."""
        self._results = None

    def queue_again(self) -> None:
        """Wait for a turn, to go on from where it stands."""
        self._stop.clear()
        self.stage, self.message = Stage.WAITING, ""

    def run(self, model: keras.Model, changed: Callable[[], None]) -> None:
        """Take steps until all are done, or `stop` was called.

        Args:
            model: The network.
            changed: Called after each step.
        """
        self.stage = Stage.RUNNING
        changed()
        try:
            self._take_steps(model, changed)
        except Error as error:
            self.stage, self.message = Stage.FAILED, as_labels(str(error))
        finally:
            if self.stage is not Stage.STOPPED:
                self.forget_state()
        changed()

    def _take_steps(self, model: keras.Model, changed: Callable[[], None]) -> None:
        if self._results is None:
            self._results = results_of(model, self.settings)
        began = time.monotonic() - self.seconds
        status = style.Status.RUNNING
        for result in self._results:
            self.image, self.evaluations = result.image, result.evaluations
            self.seconds, status = time.monotonic() - began, result.status
            self.curve.append(Point(result.evaluations, self.seconds, result.loss, result.terms))
            changed()
            if self._stop.is_set() and status is style.Status.RUNNING:
                break
        self._save()
        stopped = status is style.Status.RUNNING
        self.stage = Stage.STOPPED if stopped else Stage.FINISHED
        self.message = "" if stopped else f"{status.value[0].upper()}{status.value[1:]}."

    def _save(self) -> None:
        if self.image is not None:
            style.save_image(self.picture, self.image)
        self._write_flags()

    def _write_flags(self) -> None:
        settings = self.settings
        if self.evaluations:  # as many as the picture has seen; the rest of the settings stay
            settings = dataclasses.replace(settings, steps=self.evaluations)
        self.flagfile.write_text(flag_files.flag_file(settings, self.flagfile.name))


def results_of(model: keras.Model, settings: Settings) -> Iterator[style.Result]:
    """The pictures that `python -m style` would go through with these settings.

    Raises:
        Error: A picture cannot be read, or as `style.iter_transfer`.
    """
    options: dict[str, Any] = {name: getattr(settings, name) for name in OPTIONS}
    if settings.init not in (None, "content", "style", "noise"):
        options["init"] = style.load_image(settings.init or "")
    if settings.task == "inversion":
        names = [stage.layer.name for stage in chain.stages(model)]
        layers = resolve_layers(settings.content_layers, CONTENT_LAYERS["features"], names)
        (layer, _), *_others = layers
        content = style.load_image(settings.content or "", size=settings.size)
        return style.iter_invert(model, content, layer, **options)
    masks: list[Any] = [mask[..., 0] for mask in load_masks(settings.content_mask)]
    count = len(settings.style)
    styles = [
        style.Style(style.load_image(path), weight, content_mask=mask)
        for path, weight, mask in zip(
            settings.style,
            settings.style_blend or (1.0,) * count,
            masks or [None] * count,
            strict=True,
        )
    ]
    if settings.task == "texture":
        shape = resizing.shape_for(styles[0].pixels.shape, settings.size)
        return style.iter_texture(model, styles, shape=shape, **options)
    if settings.task == "amalgamation" and settings.init is None:
        options["init"] = "style"
    content = style.load_image(settings.content or "", size=settings.size)
    return style.iter_transfer(model, content, styles, **options)


def require_pictures(settings: Settings) -> None:
    """Check before a take waits for its turn that it could begin.

    Raises:
        UsageError: A picture that the task needs was not chosen.
        ImagesError: One cannot be read.
    """
    if settings.task != "texture" and not settings.content:
        raise UsageError("Expected a content picture. Received: none. Choose one.")
    if settings.task != "inversion" and not settings.style:
        raise UsageError("Expected a style picture. Received: none. Choose one or more.")
    for path in (*filter(None, [settings.content]), *settings.style):
        style.load_image(path)
    load_masks(settings.content_mask)


def _with_copies(asked: Settings, folder: Path) -> Settings:
    """The settings with all pictures copied into a folder."""

    def copy(path: str, name: str) -> str:
        target = folder / f"{name}{Path(path).suffix.lower()}"
        shutil.copyfile(path, target)
        return str(target)

    own_init = asked.init not in (None, "content", "style", "noise")
    return dataclasses.replace(
        asked,
        content=copy(asked.content, "content") if asked.content else None,
        style=tuple(copy(path, f"style_{i}") for i, path in enumerate(asked.style, 1)),
        content_mask=tuple(copy(p, f"mask_{i}") for i, p in enumerate(asked.content_mask, 1)),
        init=copy(asked.init or "", "begin") if own_init else asked.init,
        output=f"{folder.name}.png",
    )
