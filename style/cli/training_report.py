"""What is written beside a trained network: `report.json`, the preview, and the model card."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from style.cli import stylizer_card
from vgg_normalize.report import json_report

if TYPE_CHECKING:
    from style.cli.trainer import Trainer

PREVIEW = "preview.png"
# The package that runs a format, whose version belongs to the proof.
_RUNTIMES = {"onnx": "onnxruntime", "litert": "ai-edge-litert"}


def write(folder: Path, trainer: Trainer, formats: Sequence[Mapping[str, Any]]) -> None:
    """Write the report and the card.

    Args:
        folder: Directory of the network.
        trainer: The training, as far as it came.
        formats: The entries of `report.json` about the files.
    """
    runtimes = [_RUNTIMES[entry["name"]] for entry in formats if entry["name"] in _RUNTIMES]
    versions = {name: importlib.metadata.version(name) for name in runtimes}
    content = {
        **_facts(trainer),
        "versions": {**json_report.versions(), **versions},
        "formats": list(formats),
    }
    json_report.write_json(folder, content)
    preview = trainer.settings.preview
    has_preview = preview is not None and Path(preview).is_file()
    if preview is not None and has_preview:
        _copy_preview(Path(preview), folder / PREVIEW)
    stylizer_card.write(folder, content, PREVIEW if has_preview else None)


def _facts(trainer: Trainer) -> dict[str, Any]:
    """The entries of `report.json` about the training; losses are those of this run."""
    lines = trainer.lines
    return {
        "method": trainer.settings.method,
        "settings": dataclasses.asdict(trainer.settings),
        "styles": trainer.style_names,
        "steps": trainer.done,
        "resumed_from": trainer.resumed_from,
        "seconds": trainer.seconds,
        "losses": {"first": lines[0] if lines else None, "last": lines[-1] if lines else None},
    }


def _copy_preview(source: Path, target: Path) -> None:
    if source.suffix.lower() == ".png":
        shutil.copyfile(source, target)
    else:
        with Image.open(source) as sheet:
            sheet.save(target)
