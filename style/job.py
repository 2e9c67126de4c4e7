"""One run of the command: pictures and settings -> objective -> steps -> a picture."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import vgg_normalize as vn
from style import evaluation, image, memory, objective, synthesis
from style.checkpoints import Checkpoints
from style.log import Log, before, line_of
from style.pictures import Pictures
from style.settings import (
    CONTENT_LAYERS,
    INITS,
    STYLE_LAYERS,
    STYLE_WEIGHTS,
    TV_WEIGHTS,
    UNUSED,
    Settings,
)
from vgg_normalize import chain, weights
from vgg_normalize.errors import ImagesError, NetworkError, OutputError, ProofError, UsageError
from vgg_normalize.progress import Progress, Stop, say

# Frames of an animation, about.
FRAMES = 60


def run(settings: Settings, stop: Stop) -> None:
    """Make the picture, or for inversion one for each layer.

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
    model = vn.load(settings.model)
    weights.require_finite_model(model)
    settings = resolve(settings, model)
    pictures = Pictures(settings)
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


def _labelled(path: str, label: str | None) -> str:
    """The path with the label before its suffix."""
    plain = Path(path)
    return str(plain.with_stem(f"{plain.stem}_{label}")) if label else path


def resolve(settings: Settings, model: keras.Model) -> Settings:
    """The settings with every default that depends on the task or the network filled in.

    What the task does not use is as if it had not been given.

    Raises:
        UsageError: A picture that the task needs is not named, or numbers of things differ.
        NetworkError: The network has no such layer.
    """
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Settings)}
    settings = dataclasses.replace(
        settings, **{name: defaults[name] for name in UNUSED[settings.task]}
    )
    needs_style = settings.task != "inversion"
    if settings.task != "texture" and not settings.content:
        raise UsageError(f"Expected --content for {settings.task}. Received: none. Name a picture.")
    if needs_style and not settings.style:
        raise UsageError(f"Expected --style for {settings.task}. Received: none. Name a picture.")
    blend = settings.style_blend or tuple(1.0 for _ in settings.style)
    for name, given in (
        ("style_blend", blend),
        ("content_mask", settings.content_mask),
        ("style_mask", settings.style_mask),
    ):
        if given and len(given) != len(settings.style):
            raise UsageError(
                f"Expected {len(settings.style)} in --{name}, one for each style. Received: "
                f"{len(given)}. Give as many as styles."
            )
    if needs_style and not sum(blend) > 0:
        raise UsageError("Expected a style_blend above 0. Received: only zeros. Correct it.")
    names = [stage.layer.name for stage in chain.stages(model)]
    tv_weight = settings.tv_weight
    return dataclasses.replace(
        settings,
        style_blend=blend,
        content_layers=layers_of(settings.content_layers, CONTENT_LAYERS, names),
        style_layers=layers_of(settings.style_layers, STYLE_LAYERS, names),
        style_weight=(
            STYLE_WEIGHTS[settings.style_loss]
            if settings.style_weight is None
            else settings.style_weight
        ),
        tv_weight=TV_WEIGHTS[settings.task] if tv_weight is None else tv_weight,
        init=settings.init or INITS[settings.task],
    )


def layers_of(
    given: tuple[tuple[str, float], ...], default: tuple[tuple[str, float], ...], names: list[str]
) -> tuple[tuple[str, float], ...]:
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


class _Run:
    """One picture from its settings to its file."""

    def __init__(
        self,
        settings: Settings,
        model: keras.Model,
        pictures: Pictures,
        stop: Stop,
        label: str | None = None,
    ) -> None:
        self.settings, self.model, self.pictures = settings, model, pictures
        self.stop, self.label = stop, label
        used = [name for name, _ in (*settings.content_layers, *settings.style_layers)]
        if settings.task == "inversion":
            used = [name for name, _ in settings.content_layers]
        elif settings.task == "texture":
            used = [name for name, _ in settings.style_layers]
        least = chain.least_side(chain.features(model, used)) if used else 1
        self._require_large_enough(least)
        memory.require(
            model,
            used,
            pictures.shapes(pictures.shape),
            optimizer=settings.optimizer,
            pairs=0 if settings.memory_folder else settings.memory,
            tile=settings.tile,
        )
        sizes = synthesis.coarse_to_fine(pictures.shape, settings.scales, 2 * least)
        # A style smaller than the result may be too small at a coarse size.
        self.sizes = [size for size in sizes if min(map(min, pictures.shapes(size))) >= least]
        self.frames: list[np.ndarray] = []
        self.checkpoints = Checkpoints(settings, model, pictures, label)
        self.began = time.monotonic()

    def _require_large_enough(self, least: int) -> None:
        for shape in self.pictures.shapes(self.pictures.shape):
            if min(shape) < least:
                raise ImagesError(
                    f"Expected pictures of at least {least} pixels for these layers. Received: "
                    f"{shape[0]} x {shape[1]}. Raise --size, or leave out deep layers."
                )

    def terms(self, shape: tuple[int, int]) -> list[objective.Term]:
        """The objective at one size."""
        settings = self.settings
        found: list[objective.Term] = []
        if settings.task == "inversion":
            layer, weight = settings.content_layers[0]
            found += synthesis.inversion_terms(
                self.model,
                self.pictures.content(shape),
                layer,
                weight * settings.content_weight,
                tile=settings.tile,
            )
            if settings.norm_weight:
                found.append(objective.norm_term(settings.norm_weight, shape))
            if settings.tv_weight:
                found.append(
                    objective.bounded_variation_term(settings.tv_weight, shape, settings.tv_beta)
                )
            return found
        if settings.task != "texture":
            found += synthesis.content_terms(
                self.model, settings.content_layers, settings.content_weight, shape=shape
            )
        found += synthesis.style_terms(
            self.model,
            self.pictures.styles(shape),
            settings.style_layers,
            settings.style_weight or 0.0,
            shape=shape,
            loss=settings.style_loss,
            seed=settings.seed,
            tile=settings.tile,
        )
        if settings.tv_weight:
            found.append(
                objective.variation_term(settings.tv_weight, (*shape, 3), settings.tv_beta)
            )
        if not found:
            raise UsageError(
                "Expected an objective. Received: only weights of 0. Give content_weight or "
                "style_weight a value."
            )
        return found

    def evaluate(self, shape: tuple[int, int]) -> evaluation.Evaluate:
        """The objective at one size with its gradient."""
        terms = self.terms(shape)
        content = None
        if any(term.compares for term in terms):
            content = synthesis.as_batch(self.pictures.content(shape))
        return evaluation.evaluator(
            self.model, terms, shape, content=content, tile=self.settings.tile
        )

    def finish(self, output: str) -> None:
        """Optimise and write everything that was asked for."""
        settings = self.settings
        first, saved = self.checkpoints.earlier()
        self.began -= 0.0 if saved is None else float(saved["seconds"])
        last = None
        log = Log(settings.log, before(self.label, self.sizes[: first + 1], saved))
        with self.stop.deferred() as stop, log:
            for scale, shape, state in self._states(first, saved):
                steps = int(state.steps)
                if last is None and not (steps or bool(state.finite)):
                    raise ProofError(
                        "Expected a finite objective. Received: NaN or infinity at the first "
                        "picture. Check the weights and the pictures."
                    )
                if last is None or steps != int(last.steps) or last.x.shape != state.x.shape:
                    seconds = time.monotonic() - self.began
                    log.write(line_of(state, shape, seconds, self.label))
                last = state
                self._watch(output, state, steps)
                if stop.wanted or steps % settings.checkpoint_every == 0:
                    self.checkpoints.save(scale, state, time.monotonic() - self.began)
                if stop.wanted:
                    break
        if last is None:
            raise ProofError("Expected a step. Received: none. Raise --steps.")
        pixels = np.asarray(last.x[0])
        self._save(output, pixels)
        if settings.animation:
            image.animation(settings.animation, [*self.frames, self.pictures.finished(pixels)])
        stop.raise_if_wanted()
        self.checkpoints.finish()
        if not bool(last.finite):
            raise ProofError(
                f"Expected a finite objective. Received: NaN or infinity after step "
                f"{int(last.steps)}. The last good picture is in {output}; lower the weights or "
                "the learning rate."
            )
        say(
            f"{output}: loss {float(last.value):.6g} after {int(last.evaluations)} evaluations, "
            f"{time.monotonic() - self.began:.1f} s"
        )

    def _states(
        self, first_scale: int, saved: dict[str, np.ndarray] | None
    ) -> Iterator[tuple[int, tuple[int, int], Any]]:
        """(scale, shape, state) after every step of every scale."""
        x = None
        for scale in range(first_scale, len(self.sizes)):
            shape = self.sizes[scale]
            x = self.pictures.first(shape) if x is None else image.resize(x, *shape)
            evaluate = self.evaluate(shape)
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
                raise
            progress.close()
            x = np.asarray(state.x[0]) if state is not None else x

    def _watch(self, output: str, state: Any, steps: int) -> None:
        settings = self.settings
        if settings.preview_every and steps and steps % settings.preview_every == 0:
            self._save(output, np.asarray(state.x[0]))
        every = max(1, settings.steps * len(self.sizes) // FRAMES)
        if settings.animation and steps % every == 0:
            self.frames.append(self.pictures.finished(np.asarray(state.x[0])))

    def _save(self, output: str, pixels: np.ndarray) -> None:
        image.save(
            output,
            self.pictures.finished(pixels),
            profile=self.pictures.profile,
            bits=self.settings.bits,
        )
