"""The notebooks, from top to bottom in fresh kernels: tiny, on the CPU, without downloads."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from PIL import Image

pytest.importorskip("nbclient", reason="nbclient runs the notebooks; pip install '.[test]'")
import nbclient
import nbformat

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# In place of downloads and of hours.
SMALL = {
    "WEIGHTS": "random",
    "IMAGES": "sample",
    "MAX_IMAGES": 16,
    "LAST_LAYER": "block2_conv1",
    "IMAGE_SIZE": 64,
    "BATCH_SIZE": 8,
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / name, as_version=4)


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def parameters(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    (cell,) = [cell for cell in code(book) if "parameters" in cell.metadata.get("tags", ())]
    return cell


def execute(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **values: object
) -> nbformat.NotebookNode:
    """The notebook as run in `folder` with other values of its parameters."""
    book = read(name)
    cell = parameters(book)
    for parameter, value in values.items():
        cell.source, found = re.subn(
            rf"^{parameter} = .*$", f"{parameter} = {value!r}", cell.source, flags=re.MULTILINE
        )
        assert found == 1, parameter
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    # What would install or fetch something fails at once.
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    client = nbclient.NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()  # raises where a cell does
    return book


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def pictures(book: nbformat.NotebookNode) -> list[np.ndarray]:
    """All PNG images that were shown, [H, W, 3]; no cell may have failed."""
    outputs = [output for cell in code(book) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})
    ]
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        for encoded in shown
    ]


def test_vgg_normalize_notebook(tmp_path, monkeypatch):
    book = execute("vgg_normalize_colab.ipynb", tmp_path, monkeypatch, OUTPUT="vgg", **SMALL)
    install, devices = code(book)[:2]
    assert not install.outputs
    assert "TensorFlow" in printed(devices) and "GPU: none; TPU: none" in printed(devices)
    assert json.loads((tmp_path / "vgg" / "report.json").read_text())["check"]["passed"]
    assert any(re.search(r"^passed +True$", printed(cell), re.MULTILINE) for cell in code(book))
    for name in ("saved_model", "vgg19_normalized.npz", "means.npz", "report.html"):
        assert (tmp_path / "vgg" / name).exists()
    assert (tmp_path / "vgg.zip").stat().st_size > 100_000
    shown = pictures(book)  # means, the photograph, its features
    assert len(shown) == 3
    assert all(picture.std() > 5 for picture in shown)
    assert "<iframe" in "".join(
        output.get("data", {}).get("text/html", "")
        for cell in code(book)
        for output in cell.outputs
    )


def test_style_notebook(tmp_path, tmp_path_factory, monkeypatch):
    # Measured well enough that no filter is blown up by a mean of nearly nothing.
    saved = tmp_path_factory.mktemp("model") / "vgg"
    assert command(
        *("--weights=random", "--last_layer=block2_conv1", "--images=sample", "--max_images=16"),
        *("--image_size=64", "--formats=saved_model", f"--output={saved}"),
    ) == 0  # fmt: skip
    book = execute(
        "style_colab.ipynb",
        tmp_path,
        monkeypatch,
        MODEL=str(saved),
        SIZE=48,
        STEPS=40,
        STRENGTH=0.999,
    )
    assert not code(book)[0].outputs
    for task in ("transfer", "texture"):
        with Image.open(tmp_path / f"{task}.png") as picture:
            assert max(picture.size) == 48
    log = [json.loads(line) for line in (tmp_path / "transfer.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.05 * log[0]["loss"]
    # Python and the command have the same objective.
    (text,) = [
        text for cell in code(book) if "loss" in (text := printed(cell)) and "at first" in text
    ]
    first, last = (float(number) for number in re.findall(r"([\d.e+-]+) (?:at|after)", text))
    assert first == pytest.approx(log[0]["loss"], rel=1e-4)
    assert last < 0.05 * first
    # Content, style, result, stages, result, losses, texture and what it is of.
    shown = pictures(book)
    assert len(shown) == 8
    assert all(picture.std() > 5 for picture in shown)
    begun, grown = shown[0], shown[2]
    assert begun.shape == grown.shape and np.abs(begun.astype(float) - grown).mean() > 1


@each
def test_notebooks_are_stored_clean(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert not [cell for cell in code(book) if cell.outputs or cell.execution_count is not None]
    assert book.cells[0].cell_type == "markdown"
    assert "pip" in code(book)[0].source
    parameters(book)
