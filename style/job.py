"""One run of the command: pictures and settings -> objective -> steps -> a picture."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import image, models, sweep, synthesis
from style.animation import Animation
from style.checkpoints import Checkpoints, require_free
from style.log import Log, before, line_of
from style.pictures import Pictures
from style.problem import Cache, Problem, resolve
from style.settings import Settings
from style.sweep import Variant
from vgg_normalize.errors import OutputError, ProofError
from vgg_normalize.progress import Heartbeat, Progress, Stop, say

# Frames of an animation, about.
FRAMES = 60
# How many times the rest of the objective total variation may be before a line says so.
SWAMPING = 30.0


def run(settings: Settings, stop: Stop, variants: Sequence[Variant] = ()) -> None:
    """Make the picture, or for inversion one for each layer, or a sheet of variants.

    Args:
        settings: What is asked for.
        stop: Signals.
        variants: Of `--sweep`: the settings of each picture of the sheet.

    Raises:
        Error: What went wrong, with its exit code.
        Interrupted: A signal came; the picture so far and the checkpoint are written.
    """
    image.require_writable_bits(settings.output, settings.bits)
    for extra in (settings.log, settings.animation):
        if extra is not None and not Path(extra).absolute().parent.is_dir():
            raise OutputError(
                f"Expected a folder for {extra}. Received: none there. Create it first."
            )
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if variants:
        _run_variants(settings, variants, stop)
        return
    model = models.load(settings.model)
    settings = resolve(settings, model)
    pictures = Pictures(settings)
    image.require_fits(settings.output, *pictures.shape, bits=settings.bits)
    require_free(settings)
    if settings.log is not None and not settings.resume:
        Log.open(settings.log, "wb").close()
    if settings.task != "inversion":
        _Run(settings, model, pictures, stop).finish(settings.output)
        return
    layers = settings.content_layers
    for layer in layers:
        label = layer[0] if len(layers) > 1 else None
        one = dataclasses.replace(
            settings,
            content_layers=(layer,),
            animation=settings.animation and _labelled(settings.animation, label),
        )
        _Run(one, model, pictures, stop, label).finish(_labelled(settings.output, label))


def _run_variants(settings: Settings, variants: Sequence[Variant], stop: Stop) -> None:
    """One sheet of all variants, written anew after each; targets they share are made once."""
    networks: dict[str, keras.Model] = {}
    for name in dict.fromkeys(variant.settings.model for variant in variants):
        networks[name] = models.load(name)
    # All are looked at before the first: a wrong one costs no work.
    resolved = [resolve(v.settings, networks[v.settings.model]) for v in variants]
    runs = [(one, networks[one.model], Pictures(one)) for one in resolved]
    for one, model, pictures in runs:
        Problem(one, model, pictures)
    caches: dict[str, Cache] = {name: {} for name in networks}
    cells: list[sweep.Cell] = []
    for variant, (one, model, pictures) in zip(variants, runs, strict=True):
        say(f"{len(cells) + 1} of {len(variants)}: {variant.label}")
        run_ = _Run(one, model, pictures, stop, cache=caches[one.model])
        pixels, outcome = run_.make()
        cells.append(sweep.Cell(variant, pixels))
        say(f"{variant.label}: {outcome}")
        columns = sweep.columns_of(variants)
        image.save(settings.output, sweep.sheet(cells, len(variants), columns))
    say(f"{settings.output}: {len(variants)} pictures")


def _labelled(path: str, label: str | None) -> str:
    """The path with the label before its suffix."""
    plain = Path(path)
    return str(plain.with_stem(f"{plain.stem}_{label}")) if label else path


class _Run:
    """One picture from its settings to its file."""

    def __init__(
        self,
        settings: Settings,
        model: keras.Model,
        pictures: Pictures,
        stop: Stop,
        label: str | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.settings, self.model, self.pictures = settings, model, pictures
        self.stop, self.label = stop, label
        self.problem = Problem(settings, model, pictures, cache)
        self.sizes = self.problem.sizes
        self.animation = Animation(settings.animation) if settings.animation else None
        self.checkpoints = Checkpoints(settings, model, pictures, label)
        self.began = time.monotonic()

    def make(self) -> tuple[np.ndarray, str]:
        """The picture and how the run ended, with nothing written."""
        state: Any = None
        with self.checkpoints, self.stop.deferred() as stop:
            for _, _, state in self._states(0, None):  # noqa: B007
                stop.raise_if_wanted()
        return self.pictures.finished(np.asarray(state.x[0])), self._outcome(state)

    def finish(self, output: str) -> None:
        """Optimise and write everything that was asked for."""
        scale, last, base, failure = 0, None, None, None
        with self.checkpoints, self.stop.deferred() as stop:
            first, saved = self.checkpoints.earlier()
            self.began -= 0.0 if saved is None else float(saved["seconds"])
            log = Log(self.settings.log, before(self.label, self.sizes[: first + 1], saved))
            try:
                with log:
                    for scale, shape, state in self._states(first, saved):
                        self._note(log, shape, state, last)
                        # What a larger --steps would go on from.
                        base = last if bool(state.cut) else state
                        last = state
                        self._watch(output, state, int(state.steps))
                        if stop.wanted or int(state.steps) % self.settings.checkpoint_every == 0:
                            self.checkpoints.save(scale, base, time.monotonic() - self.began)
                        if stop.wanted:
                            break
            except OutputError as error:  # a full disk, say: the picture may have room elsewhere
                failure = error
                if last is None:
                    raise
            if last is None:
                raise ProofError("Expected a step. Received: none. Raise --steps.")
            self._conclude(output, last, failure)
            self.checkpoints.save(scale, base, time.monotonic() - self.began, finished=True)
            if not bool(last.finite):
                raise ProofError(
                    f"Expected a finite objective. Received: NaN or infinity after step "
                    f"{int(last.steps)}. The last good picture is in {output}; lower the weights "
                    "or the learning rate."
                )
        say(f"{output}: {self._outcome(last)}")

    def _note(self, log: Log, shape: tuple[int, int], state: Any, last: Any) -> None:
        """Log a state, if it is a new one, and see that it makes sense."""
        steps = int(state.steps)
        if last is None and not (steps or bool(state.finite)):
            raise ProofError(
                "Expected a finite objective. Received: NaN or infinity at the first "
                "picture. Check the weights and the pictures."
            )
        begins = last is None or last.x.shape != state.x.shape
        if begins:
            self._warn_of_variation(state)
        if begins or steps != int(last.steps):
            line = line_of(state, shape, time.monotonic() - self.began, self.label)
            weight = None if steps else self.problem.style_weight(shape)
            log.write(line if weight is None else {**line, "style_weight": weight})

    def _conclude(self, output: str, last: Any, failure: OutputError | None) -> None:
        """Write the picture, whatever ended the run, and then raise that."""
        pixels = np.asarray(last.x[0])
        self._save(output, pixels)
        if failure is not None:
            say(f"the picture so far is in {output}")
            raise failure
        if self.animation is not None:
            self.animation.finish(self.pictures.finished(pixels))
        if self.stop.wanted is not None:
            say(
                f"interrupted after {int(last.evaluations)} evaluations; the picture so far is in "
                f"{output}; {self.checkpoints.way_on}"
            )
            self.stop.raise_if_wanted()

    def _outcome(self, last: Any) -> str:
        """How a run ended, in words."""
        weight = self.problem.style_weight(self.sizes[-1])
        seconds = time.monotonic() - self.began
        return (
            f"loss {float(last.value):.6g} after {int(last.evaluations)} evaluations, "
            f"{seconds:.1f} s{'' if weight is None else f', style weight {weight:.4g}'}"
        )

    def _warn_of_variation(self, state: Any) -> None:
        """A total variation that swamps the rest gives a flat picture, which nobody asks for."""
        terms = {kind: float(value) for kind, value in state.terms.items()}
        variation = terms.pop("tv", 0.0)
        if terms and variation > SWAMPING * sum(terms.values()):
            say(
                f"total variation is {variation / max(sum(terms.values()), 1e-30):.0f} times the rest "
                "of the objective: expect a flat picture. Lower --tv_weight; presets are meant for "
                "--model=vgg19_original"
            )

    def _states(
        self, first_scale: int, saved: dict[str, np.ndarray] | None
    ) -> Iterator[tuple[int, tuple[int, int], Any]]:
        """(scale, shape, state) after every step of every scale."""
        x = None
        for scale in range(first_scale, len(self.sizes)):
            shape = self.sizes[scale]
            x = self.pictures.first(shape) if x is None else image.resize(x, *shape)
            Heartbeat.doing(f"{shape[1]} x {shape[0]}: preparing the objective")
            evaluate = self.problem.evaluate(shape)
            method = synthesis.optimizer(
                self.settings.optimizer,
                evaluate,
                shape,
                memory=self.settings.memory,
                pairs=self.checkpoints.pairs(scale),
                smoothing=self.settings.smoothing,
                learning_rate=self.settings.learning_rate,
            )
            start = synthesis.as_batch(x)
            state = None
            if saved is not None:
                state, saved = self.checkpoints.unpack(method, start, saved), None
            progress = Progress(self.settings.steps, title=f"{shape[1]} x {shape[0]}", unit="step")
            states = synthesis.minimize(method, start, self.settings.steps, state=state)
            try:
                for state in states:
                    progress.update(int(state.evaluations), f"loss {float(state.value):.5g}")
                    yield scale, shape, state
            except tf.errors.OpError:
                self.checkpoints.raise_if_failed()
                self.stop.raise_if_wanted()  # a second signal, while the host read or wrote pairs
                raise
            progress.close()
            x = np.asarray(state.x[0]) if state is not None else x

    def _watch(self, output: str, state: Any, steps: int) -> None:
        settings = self.settings
        if settings.preview_every and steps and steps % settings.preview_every == 0:
            self._save(output, np.asarray(state.x[0]))
        every = max(1, settings.steps * len(self.sizes) // FRAMES)
        if self.animation is not None and steps % every == 0:
            self.animation.add(self.pictures.finished(np.asarray(state.x[0])))

    def _save(self, output: str, pixels: np.ndarray) -> None:
        image.save(
            output,
            np.clip(self.pictures.finished(pixels), 0, 1),  # an optimiser may leave the range
            profile=self.pictures.profile,
            bits=self.settings.bits,
        )
