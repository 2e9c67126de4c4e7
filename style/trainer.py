"""One run of `style.train`: folders and settings -> steps -> a network."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from style import exported, image, models, networks, training
from style.log import Log
from style.networks import Network
from style.problem import layers_of
from style.settings import CONTENT_LAYERS, STYLE_LAYERS, TRAIN_FREE, TrainSettings
from vgg_normalize import chain, checkpoint, images, output, weight_export
from vgg_normalize.errors import ImagesError, OutputError, ProofError, UsageError
from vgg_normalize.progress import Progress, Stop, say

# Fixed contents and styles of a preview.
SHOWN = 3
# Steps whose pictures are listed at once: the list of millions of steps would fill the memory.
LISTED = 2000
CHECKPOINT = "training.npz"


def run(settings: TrainSettings, stop: Stop) -> None:
    """Train a network and save it.

    Raises:
        Error: What went wrong, with its exit code.
        Interrupted: A signal came; the checkpoint is written.
    """
    resize = 2 * settings.size if settings.resize is None else settings.resize
    if resize < settings.size:
        raise UsageError(
            f"Expected --resize of at least --size. Received: {resize} and {settings.size}. "
            "Correct them."
        )
    settings = dataclasses.replace(settings, resize=resize)
    if settings.resume and settings.checkpoint is None:
        raise UsageError("Expected --checkpoint with --resume. Received: none. Name it.")
    if settings.preview is not None:
        image.require_writable(settings.preview)
    with contextlib.ExitStack() as held:
        if settings.checkpoint is not None:
            folder = Path(settings.checkpoint)
            held.enter_context(output.locked(folder, "a folder for checkpoints", "--checkpoint"))
        _require_free(settings)
        _train(settings, stop)
    say(f"saved in {settings.output}")


def _train(settings: TrainSettings, stop: Stop) -> None:
    """The work, with the folder of checkpoints held."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    with output.workplace(settings.output, overwrite=settings.overwrite, resume=False) as place:
        trainer = _Trainer(settings)
        trainer.train(stop)
        with output.writing(place.new):
            folder = place.empty_new()
            folder.rmdir()
        trainer.save(folder)
        place.publish()
        trainer.finish()


def _require_free(settings: TrainSettings) -> None:
    """See before the work that it will overwrite nothing unasked."""
    if settings.overwrite:
        return
    kept = _last_good(settings)
    if kept.exists():
        raise OutputError(
            f"Expected no {kept}, where the last good network goes if this run fails. Received: "
            "one. Move it, or use --overwrite."
        )
    if settings.checkpoint and not settings.resume:
        place = Path(settings.checkpoint) / CHECKPOINT
        checkpoint.require_free(place, "--overwrite to start afresh, or another --checkpoint")


def _last_good(settings: TrainSettings) -> Path:
    return Path(os.path.abspath(os.path.expanduser(settings.output)) + ".last_good")


class _Trainer:
    """A network in training, and its data."""

    def __init__(self, settings: TrainSettings) -> None:
        self.model = models.load(settings.model)
        names = [stage.layer.name for stage in chain.stages(self.model)]
        settings = dataclasses.replace(
            settings,
            content_layers=layers_of(settings.content_layers, CONTENT_LAYERS, names),
            style_layers=layers_of(
                settings.style_layers,
                # As far as AdaIN's own layer (Huang and Belongie 2017, section 6.1).
                STYLE_LAYERS[:4] if settings.method == "adain" else STYLE_LAYERS,
                names,
            ),
            style_loss=settings.style_loss or ("moments" if settings.method == "adain" else "gram"),
        )
        self.settings = settings
        self.contents, self.content_indices = self._open(settings.content)
        self.styles, self.style_indices = self._open(settings.style)
        self.weights = training.Weights(
            settings.content_layers,
            settings.style_layers,
            settings.content_weight,
            settings.style_weight or 0.0,
            settings.tv_weight,
            settings.style_loss or "",
        )
        self.style_names: list[str] = []
        self.seconds = 0.0  # of training, with those before the checkpoint
        targets = None
        if settings.method == "cin":
            read = [self.styles.read(int(i)) for i in self.style_indices]
            self.style_names = [name for name, _ in read]
            pictures = [self._style(training.pixels(encoded)) for _, encoded in read]
            targets = training.style_targets(self.model, self.weights, pictures)
        self.network = self._network()
        if settings.size % self.network.stride:
            raise UsageError(
                f"Expected --size a multiple of {self.network.stride}, the stride of this network. "
                f"Received: {settings.size}. Correct it."
            )
        rate = training.schedule(settings.learning_rate or 0.0, settings.decay or 0.0)
        self.optimizer = keras.optimizers.Adam(rate)
        self.step = training.step_function(
            self.network, self.model, self.weights, self.optimizer, targets=targets
        )

    def _open(self, spec: str) -> tuple[images.Source, np.ndarray]:
        if spec.startswith("tfds:"):
            raise ImagesError(
                f"Expected a folder or a .tar, whose pictures can be read in any order. Received: "
                f"{spec!r}. Export it to a folder."
            )
        source = images.open_source(spec)
        good, complaints = training.usable(source, self.settings.size, self.settings.max_skipped)
        if complaints:
            say(f"{spec}: {len(complaints)} left out, for example {complaints[0]}")
        return source, good

    def _style(self, pixels: np.ndarray) -> np.ndarray:
        """A fixed style as it is looked at: never narrower than the crops."""
        short, long = sorted(pixels.shape[:2])
        return image.fit(pixels, self.settings.size * max(2, long / short))

    def _network(self) -> Network:
        settings = self.settings
        makers: dict[str, Callable[[], Network]] = {
            "adain": lambda: networks.adain(self.model, seed=settings.seed),
            "encoder": lambda: networks.style_encoder(
                self.model,
                layers=tuple(name for name, _ in settings.style_layers),
                seed=settings.seed,
            ),
            "cin": lambda: networks.cin(len(self.style_indices), seed=settings.seed),
        }
        return makers[settings.method]()

    def batches(self, first: int, last: int) -> Iterator[tuple[Any, Any]]:
        """(content, style or its index) of the steps number first to last."""
        for begin in range(first, last, LISTED):
            yield from self._listed(begin, min(begin + LISTED, last))

    def _listed(self, first: int, last: int) -> Iterator[tuple[Any, Any]]:
        settings = self.settings
        size = settings.batch_size
        numbers = (first * size, last * size)
        resize = settings.resize or settings.size
        options = {"size": settings.size, "resize": resize, "batch_size": size}
        found = []
        for source, indices, seed in (
            (self.contents, self.content_indices, 2 * settings.seed),
            (self.styles, self.style_indices, 2 * settings.seed + 1),
        ):
            order = training.order(len(indices), *numbers, seed)
            if source is self.styles and settings.method == "cin":
                found.append(tf.data.Dataset.from_tensor_slices(order.astype(np.int32)).batch(size))
            else:
                found.append(
                    training.crops(source, indices[order], first=numbers[0], seed=seed, **options)
                )
        return training.pairs(*found)

    def train(self, stop: Stop) -> None:
        """All steps that are left."""
        settings, steps = self.settings, self.settings.steps or 0
        board = _Board(settings.tensorboard)
        place, fingerprint = self._place(), self._fingerprint()
        first, seconds = self._earlier(place, fingerprint)
        began = time.monotonic() - seconds
        progress = Progress(steps, first, title="training", unit="step")
        saved, good = first, True
        # What the last finite loss was computed with; the step from there may have been too wide.
        kept = before = self._values()
        with stop.deferred(), Log(settings.log, lambda line: line["step"] < first) as log:
            for number, batch in enumerate(self.batches(first, steps), first):
                kept, before = before, self._values()
                terms = {name: float(value) for name, value in self.step(*batch).items()}
                loss = terms.pop("loss")
                seconds = time.monotonic() - began
                line = {"step": number, "seconds": round(seconds, 4), "loss": loss, "terms": terms}
                good = bool(np.isfinite(loss))
                if not good:
                    break
                log.write(line)
                board.write(number, {"loss": loss, **terms})
                progress.update(number + 1, f"loss {loss:.5g}")
                done = number + 1
                if settings.preview and (done % settings.preview_every == 0 or done == steps):
                    self.show(settings.preview)
                if place is not None and (stop.wanted or done % settings.checkpoint_every == 0):
                    saved = done
                    self._checkpoint(place, fingerprint, saved, seconds)
                if stop.wanted:
                    break
        progress.close()
        if stop.wanted and place is not None:
            say(f"interrupted after {saved} steps; go on with --resume")
        stop.raise_if_wanted()
        if place is not None and good and saved != steps:
            self._checkpoint(place, fingerprint, steps, time.monotonic() - began)
        self.seconds = time.monotonic() - began
        if not good:
            for variable, value in zip(self.network.variables, kept, strict=True):
                variable.assign(value)
            folder = _last_good(settings)
            shutil.rmtree(folder, ignore_errors=True)
            self.save(folder)
            raise ProofError(
                f"Expected a finite loss. Received: NaN or infinity at step {number}. The last "
                f"good network is in {folder}; lower --learning_rate or the weights."
            )

    def _values(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(variable.value) for variable in self.network.variables]

    def save(self, folder: Path) -> None:
        """Write the network into a new directory."""
        facts = dataclasses.asdict(self.settings)
        exported.save(self.network, self.model, folder, styles=self.style_names, settings=facts)

    def show(self, path: str) -> None:
        """Fixed contents (rows) in fixed styles (columns), the contents first."""
        size = self.settings.size
        count = min(SHOWN, len(self.content_indices)), min(SHOWN, len(self.style_indices))
        contents, styles = (
            np.stack([training.square(source.read(int(i))[1], size) for i in indices[:shown]])
            for source, indices, shown in (
                (self.contents, self.content_indices, count[0]),
                (self.styles, self.style_indices, count[1]),
            )
        )
        if self.network.code is None:
            codes = np.eye(len(self.style_indices), dtype=np.float32)[: count[1]]
        else:
            codes = self.network.code(styles).numpy()
        columns = [contents]
        for code in codes:
            repeated = np.repeat(code[None], len(contents), 0)
            made = self.network.transform({"content": contents, "code": repeated})["image"]
            columns.append(np.asarray(made))
        top = np.concatenate([np.ones((1, size, size, 3)), styles])
        rows = [top, *(np.stack(row) for row in zip(*columns, strict=True))]
        sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows], 0)
        image.save(path, np.clip(sheet, 0, 1))  # an untrained network is far outside

    def _place(self) -> Path | None:
        """Where the checkpoint is, if one is asked for."""
        if self.settings.checkpoint is None:
            return None
        return Path(self.settings.checkpoint) / CHECKPOINT

    def finish(self) -> None:
        """Note in the checkpoint that the network is saved: a new run may replace it."""
        place = self._place()
        if place is not None:
            self._checkpoint(
                place, self._fingerprint(), self.settings.steps or 0, self.seconds, finished=True
            )

    def _variables(self) -> list[Any]:
        return [*self.network.variables, *self.optimizer.variables]

    def _fingerprint(self) -> str:
        bound = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in TRAIN_FREE}
        chosen = hashlib.sha256(self.content_indices.tobytes() + self.style_indices.tobytes())
        found = {
            "contents": self.contents.sha256,
            "styles": self.styles.sha256,
            "chosen": chosen.hexdigest(),
            "weights": weight_export.weights_digest(self.model),
        }
        return checkpoint.fingerprint({**bound, **found, "tensorflow": tf.__version__})

    def _earlier(self, place: Path | None, fingerprint: str) -> tuple[int, float]:
        """Go on from a checkpoint: its step and seconds."""
        if place is None or not self.settings.resume:
            if place is not None:
                checkpoint.forget(place)
            return 0, 0.0
        shapes = {f"variable{i}": tuple(v.shape) for i, v in enumerate(self._variables())}
        arrays, complaints = checkpoint.load(
            place, fingerprint, {**shapes, "step": (), "seconds": ()}
        )
        for complaint in complaints:
            say(complaint)
        if arrays is None:
            say("no checkpoint to go on from: starting afresh")
            return 0, 0.0
        if int(arrays["step"]) > (self.settings.steps or 0):
            raise UsageError(
                f"Expected --steps of at least {int(arrays['step'])}, where the checkpoint is. "
                f"Received: {self.settings.steps}. Correct it."
            )
        for i, variable in enumerate(self._variables()):
            variable.assign(arrays[f"variable{i}"])
        done = int(arrays["step"])
        if bool(arrays["finished"]) and done == self.settings.steps:
            say(f"finished after {done} steps; raise --steps to go on")
        else:
            say(f"going on after {done} steps")
        return done, float(arrays["seconds"])

    def _checkpoint(
        self,
        place: Path,
        fingerprint: str,
        step: int,
        seconds: float,
        *,
        finished: bool = False,
    ) -> None:
        arrays = {f"variable{i}": np.asarray(v) for i, v in enumerate(self._variables())}
        arrays |= {"step": np.array(step), "seconds": np.array(seconds)}
        checkpoint.save(place, arrays, fingerprint, finished=finished)


class _Board:
    """TensorBoard's logs, if they are wanted.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | None) -> None:
        self._writer = None
        if folder is None:
            return
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "Expected TensorBoard with --tensorboard. Received: none. Run pip install "
                "tensorboard, or use --log."
            ) from error
        self._writer = tf.summary.create_file_writer(folder)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """The scalars of one step."""
        if self._writer is not None:
            with self._writer.as_default(step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
