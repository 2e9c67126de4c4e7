"""One run of the command: settings -> pictures and network -> steps -> a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from style import models
from style.cli import run_several, sweep
from style.cli.log import Log
from style.cli.picture_run import PictureRun
from style.cli.read_inputs import read_inputs
from style.cli.settings import Settings
from style.cli.sweep import Variant
from style.cli.transfer_checkpoint import require_free
from style.images import writing
from style.synthesis.cache import Cache
from style.synthesis.defaults import require_one_each, resolve
from vgg_normalize.errors import UsageError
from vgg_normalize.networks import borders
from vgg_normalize.runtime.progress import Heartbeat, InterruptHandler, say


def run(settings: Settings, stop: InterruptHandler, variants: Sequence[Variant] = ()) -> None:
    """Make the picture, or for inversion one for each layer, or a sheet of variants.

    Args:
        settings: What is asked for.
        stop: Signals.
        variants: Of `--sweep`: the settings of each picture of the sheet.

    Raises:
        Error: What went wrong, with its exit code.
        Interrupted: A signal came; the picture so far and the checkpoint are written.
    """
    several = settings.content is not None and Path(settings.content).is_dir()
    if not several:
        writing.require_writable_bits(settings.output, settings.bits)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    if variants:
        _run_variants(settings, variants, stop)
        return
    model = _load_model(settings.model)
    settings = resolve_settings(settings, model)
    _say_padding(settings, model)
    if several or settings.interpolate:
        make = run_several.run_folder if several else run_several.run_interpolation
        make(settings, model, stop)
        return
    inputs, profile = read_inputs(settings)
    writing.require_fits(settings.output, *inputs.shape, bits=settings.bits)
    require_free(settings)
    if settings.log is not None and not settings.resume:
        Log.open(settings.log, "wb").close()
    if settings.task != "inversion":
        PictureRun(settings, model, inputs, stop, profile=profile).finish(settings.output)
        return
    layers = settings.content_layers
    for layer in layers:
        label = layer[0] if len(layers) > 1 else None
        of_layer = dataclasses.replace(
            settings,
            content_layers=(layer,),
            animation=settings.animation and _labelled(settings.animation, label),
        )
        layer_run = PictureRun(of_layer, model, inputs, stop, label=label, profile=profile)
        layer_run.finish(_labelled(settings.output, label))


def _say_padding(settings: Settings, model: keras.Model) -> None:
    made_for = borders.padding_of(model)
    if settings.padding != made_for:
        say(
            f"the network was made for {made_for} padding and is used with {settings.padding}: its "
            "channel means near the border may differ from one"
        )


def _load_model(name: str) -> keras.Model:
    Heartbeat.doing("loading the network")
    return models.load(name, say)


def resolve_settings(settings: Settings, model: keras.Model) -> Settings:
    """The settings with every default filled in.

    Raises:
        UsageError: A picture that the task needs is not named, or numbers of things differ.
        NetworkError: The network has no such layer.
    """
    if settings.task != "texture" and not settings.content:
        raise UsageError(f"Expected --content for {settings.task}. Received: none. Name a picture.")
    if settings.task != "inversion" and not settings.style:
        raise UsageError(f"Expected --style for {settings.task}. Received: none. Name a picture.")
    if settings.task != "inversion":
        require_one_each("--style_blend", len(settings.style_blend), len(settings.style))
    resolved = resolve(settings, model, styles=len(settings.style))
    for name in ("content_mask", "style_mask"):
        require_one_each(f"--{name}", len(getattr(resolved, name)), len(resolved.style))
    return resolved


def _run_variants(settings: Settings, variants: Sequence[Variant], stop: InterruptHandler) -> None:
    """One sheet of all variants, written anew after each; targets they share are made once."""
    networks: dict[str, keras.Model] = {}
    for name in dict.fromkeys(variant.settings.model for variant in variants):
        networks[name] = _load_model(name)
    caches = {name: Cache() for name in networks}
    # All are looked at before the first: a wrong one costs no work.
    runs = []
    for variant in variants:
        name = variant.settings.model
        resolved = resolve_settings(variant.settings, networks[name])
        inputs, _ = read_inputs(resolved)
        runs.append(PictureRun(resolved, networks[name], inputs, stop, cache=caches[name]))
    cells: list[sweep.Cell] = []
    for variant, variant_run in zip(variants, runs, strict=True):
        say(f"{len(cells) + 1} of {len(variants)}: {variant.label}")
        pixels, outcome = variant_run.make()
        cells.append(sweep.Cell(variant, pixels))
        say(f"{variant.label}: {outcome}")
        columns = sweep.columns_of(variants)
        writing.save(settings.output, sweep.sheet(cells, len(variants), columns))
    say(f"{settings.output}: {len(variants)} pictures")


def _labelled(path: str, label: str | None) -> str:
    """The path with the label before its suffix."""
    plain = Path(path)
    return str(plain.with_stem(f"{plain.stem}_{label}")) if label else path
