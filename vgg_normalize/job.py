"""The main job: images -> means -> surgery -> check -> files; or an audit of a given network, or the
comparison of two."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vgg_normalize import (
    chain,
    checkpoint,
    compare_job,
    devices,
    export,
    images,
    means,
    measure,
    output,
    proof,
    report,
    shipped,
    surgery,
    vgg,
    weight_export,
    weights,
)
from vgg_normalize.errors import OutputError, ProofError, UsageError
from vgg_normalize.measure import State
from vgg_normalize.progress import Heartbeat, Progress, Stop, say
from vgg_normalize.settings import BOUND, Settings


def run(settings: Settings, stop: Stop) -> None:
    """Do the whole job.

    Raises:
        Error: What went wrong, with its exit code; nothing but a failed check's report is left.
        Interrupted: A signal came; the checkpoint is written.
    """
    if settings.task == "compare":
        with output.workplace(settings.output, overwrite=settings.overwrite, resume=False) as place:
            compare_job.run(settings, place)
        return
    _require_sound(settings)
    if settings.logical_cpus:
        devices.split_cpu(settings.logical_cpus)
    tf.config.experimental.enable_tensor_float_32_execution(settings.allow_tf32)
    strategy = devices.strategy(settings.strategy)
    if not devices.is_chief(strategy):
        _Job(settings, stop, strategy, None).measure()
        return
    # What stands there may be the old one, and the run that was to replace it interrupted.
    if (
        settings.resume
        and report.is_finished(settings.output)
        and not (settings.overwrite and output.is_interrupted(settings.output))
    ):
        say(f"{settings.output} is finished: nothing to do.")
        return
    with output.workplace(
        settings.output, overwrite=settings.overwrite, resume=settings.resume
    ) as place:
        _Job(settings, stop, strategy, place).finish()


def _require_sound(settings: Settings) -> None:
    if settings.include_top and (settings.resize == "none" or settings.image_size != 224):
        raise UsageError(
            "Expected images of 224 x 224 with --include_top. Received: "
            f"resize={settings.resize}, image_size={settings.image_size}. Leave both out."
        )
    unknown = [form for form in settings.formats if form not in export.FORMATS]
    if unknown or not settings.formats:
        raise UsageError(
            f"Expected formats of {', '.join(export.FORMATS)}. Received: "
            f"{', '.join(unknown) or 'none'}. Correct --formats."
        )


class _Job:
    """One run, from its settings to its output."""

    def __init__(
        self,
        settings: Settings,
        stop: Stop,
        strategy: tf.distribute.Strategy | None,
        place: output.Workplace | None,
    ) -> None:
        self.settings, self.stop, self.strategy, self.place = settings, stop, strategy, place
        self.source = images.open_source(
            settings.images or "sample",
            max_images=settings.max_images,
            seed=settings.seed,
            shuffle=settings.target_error > 0,
        )
        Heartbeat.doing("loading the network")
        self.weights = weights.load(
            settings.weights,
            settings.architecture,
            vgg.weight_shapes(settings.architecture, settings.include_top, settings.last_layer),
            seed=settings.seed,
        )
        self.model = vgg.with_weights(
            self.weights,
            settings.architecture,
            pooling=settings.pooling,
            include_top=settings.include_top,
            last_layer=settings.last_layer,
            preprocessing=settings.preprocessing,
        )
        say(f"weights: {self.weights.description}")
        if self.weights.note and settings.preprocessing == "caffe":
            say(self.weights.note)
        export.require_formats(self.model, settings.formats)
        stages = chain.stages(self.model)
        self.channels = {
            stage.layer.name: stage.layer.get_weights()[0].shape[-1]
            for stage in stages
            if stage.rectified
        }
        self.reading = measure.Reading(
            settings.batch_size, settings.resize, settings.image_size, chain.least_side(self.model)
        )
        if settings.resize != "none" and settings.image_size < self.reading.min_side:
            raise UsageError(
                f"Expected images of at least {self.reading.min_side} pixels for this network. "
                f"Received: image_size={settings.image_size}. Raise --image_size, or cut the network "
                "with --last_layer."
            )
        self.resumed_from = 0

    def fingerprint(self) -> str:
        """What must be the same for a checkpoint to fit."""
        bound = {name: getattr(self.settings, name) for name in BOUND}
        replicas = self.strategy.num_replicas_in_sync if self.strategy else 1
        return checkpoint.fingerprint(
            {
                **bound,
                "weights": weight_export.weights_digest(self.model),
                "images": self.source.sha256,
                "replicas": replicas,
                "tensorflow": tf.__version__,
            }
        )

    def measure(self) -> tuple[State, float]:
        """All sums, and images a second."""
        fingerprint = self.fingerprint()
        state = self._earlier(fingerprint)
        self.resumed_from = int(state.sums.images) if state else 0
        progress = Progress(self.source.total, self.resumed_from)
        saved = self.resumed_from
        states = measure.measure(
            self.model,
            self.source,
            self.reading,
            state=state,
            strategy=self.strategy,
            max_skipped=self.settings.max_skipped,
        )
        with self.stop.deferred() as stop:
            for state in states:
                done = int(state.sums.images)
                error = measure.worst_error(state.sums, self.channels) if done > 1 else None
                note = "" if error is None else f"error {error:.2%}"
                progress.update(done + len(state.skipped), note)
                enough = (
                    self.settings.target_error > 0
                    and error is not None
                    and done >= measure.LEAST_IMAGES
                    and error <= self.settings.target_error
                )
                if self.place is not None and (
                    stop.wanted or enough or done - saved >= self.settings.checkpoint_every
                ):
                    measure.save_state(self.place.checkpoint, state, fingerprint)
                    saved = done
                if stop.wanted:
                    break
                if enough:
                    say(f"the asked accuracy is reached after {done} images")
                    break
        rate = progress.rate()
        progress.close()
        states.close()
        if stop.wanted:
            say(f"interrupted after {saved} images; go on with --resume")
        stop.raise_if_wanted()
        state = state or measure.start(self.channels)
        if self.place is not None and saved != state.sums.images:
            measure.save_state(self.place.checkpoint, state, fingerprint)
        return state, rate

    def _earlier(self, fingerprint: str) -> State | None:
        """The checkpoint, if one is wanted; on several workers the chief's goes to all."""
        state = None
        if self.settings.resume and self.place is not None:
            state, complaints = measure.load_state(
                self.place.checkpoint, fingerprint, means.zero(self.channels)
            )
            for complaint in complaints:
                say(complaint)
            if state is None:
                say("no checkpoint to go on from: starting afresh")
            else:
                say(f"going on after {int(state.sums.images)} images")
        if self.settings.resume and self.strategy is not None:
            return measure.share(self.strategy, state, self.channels)
        return state

    def finish(self) -> None:
        """Measure, or take the given means, and write what was asked for."""
        if self.place is None:
            raise OutputError("Expected a place for the output. Received: none. Use --output.")
        began = time.monotonic()
        given = self._given_means() if self.settings.means else None
        measured, facts = self._measured() if given is None else given
        facts = {**self._facts(), **facts}
        with output.writing(self.place.new):
            folder = self.place.empty_new()
        check = None
        if self.settings.task == "normalize":
            if given is not None:
                say("normalising by given means; proving it")
            check = self._normalize(measured, folder, facts)
            if given is not None:
                facts["images"]["used"] = check.images
        facts["seconds"] = time.monotonic() - began
        facts["peak_memory_bytes"] = report.peak_memory()
        passed = check is None or check.passed
        with output.writing(folder):
            if passed:
                measured.save(folder / "means.npz")
            else:
                self.place.empty_new()
            report.write(folder, facts, measured, check)
        if check is None or passed:
            self.place.publish()
            say(report.summary(measured, check, self.settings.output))
            return
        target = self.place.target
        if target.exists() and any(target.iterdir()):
            target = target.with_name(target.name + ".failed")
        self.place.publish(target)
        raise ProofError(
            f"Expected the normalised network to be its original. Received: {proof.describe(check)}"
            f". Nothing was saved but the report in {target}."
        )

    def _facts(self) -> dict[str, Any]:
        """What `report.json` says of any run."""
        return {
            "architecture": self.settings.architecture,
            "pooling": self.settings.pooling,
            "task": self.settings.task,
            "settings": {
                **dataclasses.asdict(self.settings),
                "formats": list(self.settings.formats),
            },
            "weights": self.weights.facts(),
            "versions": report.versions(),
        }

    def _conditions(self) -> dict[str, Any]:
        """What means depend on besides the weights and the images."""
        found = {name: getattr(self.settings, name) for name in shipped.CONDITIONS}
        if self.settings.resize == "none":
            del found["image_size"]
        return found

    def _measured(self) -> tuple[means.Means, dict[str, Any]]:
        """The means of the images, and what the report says of them."""
        state, rate = self.measure()
        skipped = [
            images.reason(self.source, index, self.reading.min_side) for index in state.skipped
        ]
        for one in skipped:
            say(f"skipped {one['path']!r}: {one['reason']}")
        measured = means.finish(state.sums, self.channels)
        settings = {
            "architecture": self.settings.architecture,
            "weights": self.weights.description,
            "biases": weights.bias_digests(self.model),
            **self._conditions(),
            "images": self.settings.images,
            "images_sha256": self.source.sha256,
        }
        measured = dataclasses.replace(measured, settings=settings)
        return measured, {
            "means": {"source": "measured", "images": measured.images, "sha256": ""},
            "resumed_from": self.resumed_from,
            "images": self._images_facts(measured.images, skipped),
            "images_per_second": rate,
        }

    def _given_means(self) -> tuple[means.Means, dict[str, Any]]:
        """The means of --means, and what the report says of them.

        Raises:
            NetworkError: They are of another network.
            UsageError: They were measured in another way, and that was not asked for.
        """
        source = self.settings.means or ""
        found, digest = shipped.load_means(source, self.settings.architecture)
        found = shipped.require_of_network(found, self.model, source)
        apart = shipped.differences(found, self._conditions())
        if apart and not self.settings.allow_mismatch:
            raise UsageError(
                f"Expected means measured as this run is set. Received: {source}, measured with "
                f"{'; '.join(apart)}. Change the flags, measure anew without --means, or use "
                "--allow_mismatch."
            )
        if not found.settings:
            say(
                f"{source} does not say how it was measured: its pooling and sizes are taken as given"
            )
        return found, {
            "means": {"source": source, "images": found.images, "sha256": digest},
            "mismatches": apart,
            "resumed_from": 0,
            "images": self._images_facts(0, []),
            "images_per_second": None,
        }

    def _images_facts(self, used: int, skipped: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "source": self.settings.images,
            "used": used,
            "skipped": skipped,
            "sha256": self.source.sha256,
        }

    def _normalize(self, measured: means.Means, folder: Any, facts: dict[str, Any]) -> proof.Check:
        """Write the artefacts, read them back, and compare them with the original."""
        normal = surgery.normalize(self.model, measured)
        settings = {**facts["settings"], "weights": self.weights.description}
        Heartbeat.doing("saving")
        export.write(normal, measured, folder, formats=self.settings.formats, settings=settings)
        forms = [form for form in export.FORMATS if form in self.settings.formats]
        read = export.reload(normal, folder, forms[0])
        for form in forms[1:]:
            _require_equal(read, export.reload(normal, folder, form), form)
        chosen = images.representative(self.source, self.settings.check_images)
        reading = self.reading._replace(batch_size=min(4, self.reading.batch_size))
        progress = Progress(len(chosen), title="checking")

        def batches() -> Any:
            done = 0
            for index, image in images.batches(self.source, chosen, **reading._asdict()):
                yield image
                done += len(index)
                progress.update(done)

        check = proof.check(
            self.model,
            read,
            measured,
            batches(),
            artefact=export.saved_function(folder) if forms[0] == "saved_model" else None,
            other_images=bool(facts.get("mismatches"))
            or measured.settings.get("images_sha256") != self.source.sha256,
        )
        progress.close()
        return check


def _require_equal(one: keras.Model, other: keras.Model, form: str) -> None:
    """The artefacts hold the same weights to the last bit, so one proof serves all."""
    arrays = export.named_weights(other)
    for name, array in export.named_weights(one).items():
        if not np.array_equal(array, arrays[name]):
            raise ProofError(
                f"Expected the same weights in every artefact. Received: {name} of {form}, which "
                "differs. Check the disk and run again."
            )
