"""The exports of `style.train`: tried before the training, written and proved after it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from style.cli.settings import TrainSettings
from style.feedforward import exporting
from style.feedforward.saved_network import SavedNetwork
from style.objective import memory_budget
from style.objective.memory_budget import gib
from vgg_normalize.errors import DevicesError, VerificationError
from vgg_normalize.runtime.progress import Heartbeat
from vgg_normalize.runtime.quiet import quiet_libraries


def export_sizes(settings: TrainSettings) -> dict[str, int | None]:
    """Format to the side in pixels of its file, None for any; without the SavedModel."""
    # What LiteRT cannot have; see `feedforward.exporting`.
    fixed = settings.export_size or settings.size
    sizes = {"onnx": settings.export_size, "litert": fixed}
    return {form: size for form, size in sizes.items() if form in settings.formats}


def rehearse(save: Callable[[Path], None], settings: TrainSettings) -> None:
    """Export the network before it is trained, so that no training ends in a refusal.

    Args:
        save: Writes the network as it is into a new directory.
        settings: What `style.train` was asked for.

    Raises:
        Error: The network cannot be exported so, or there is not the memory to prove it.
    """
    sizes = export_sizes(settings)
    if not sizes:
        return
    Heartbeat.doing("trying the exports")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        save(folder)
        for form, size in sizes.items():
            if size is not None:
                exporting.require_size(folder, size)
                _require_memory(folder, size)
            with quiet_libraries():
                exporting.export(folder, form, size)
                # Whether it runs; how close it comes is asked of the trained network.
                exporting.worst_difference(folder, form, size)


def _require_memory(folder: Path, size: int) -> None:
    """Raise DevicesError where TensorFlow and a runtime have no room for one picture of this size."""
    network, room = SavedNetwork(str(folder)), memory_budget.available()
    needed = 2 * max(network.memory((size, size)), network.code_memory((size, size)))
    if room is not None and needed > room:
        raise DevicesError(
            f"Expected enough memory. Received: {gib(room)}, and about {gib(needed)} are needed to "
            f"prove exports of {size} x {size} pixels. Lower --export_size."
        )


def write(folder: Path, settings: TrainSettings) -> tuple[list[dict[str, Any]], Exception | None]:
    """Write and prove the exports of a trained network.

    Args:
        folder: Directory with its SavedModel.
        settings: What `style.train` was asked for.

    Returns:
        The entries of `formats` in `report.json`, and the error of the exports that are not what
        they must be: these are removed, for hours of training are worth more than they are.
    """
    entries = [_entry(folder, "saved_model", "saved_model.pb", 0.0)]
    failure = None
    for form, size in export_sizes(settings).items():
        name = exporting.FILES[form]
        Heartbeat.doing(f"writing {name}, and comparing it with the SavedModel")
        try:
            with quiet_libraries():
                exporting.export(folder, form, size)
                worst = exporting.worst_difference(folder, form, size)
            exporting.require_close(form, worst)
        except VerificationError as error:
            (folder / name).unlink()
            failure = error
            continue
        entries.append(_entry(folder, form, name, worst) | {"size": size})
    return entries, failure


def _entry(folder: Path, form: str, name: str, worst: float) -> dict[str, Any]:
    parts = [folder / name]
    if form == "saved_model":
        parts += [file for part in ("variables", "assets") for file in (folder / part).rglob("*")]
    size = sum(file.stat().st_size for file in parts if file.is_file())
    return {"name": form, "file": name, "bytes": size, "worst_difference": worst}
