"""How to load what was saved, format by format: for `report.html` and for the model card."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Step(NamedTuple):
    """How to load one format.

    Attributes:
        text: What it is for, with `names` in backquotes.
        code: Lines of Python.
    """

    text: str
    code: str


def loading_guide(content: Mapping[str, Any]) -> str:
    """How to load each of the saved files, as HTML.

    Args:
        content: The content of `report.json`.
    """
    return "".join(_html(step) for step in loading_steps(content))


def _html(step: Step) -> str:
    text = re.sub("`(.+?)`", r"<code>\1</code>", html.escape(step.text, quote=False))
    return f"<p>{text}</p><pre>{html.escape(step.code, quote=False)}</pre>"


def loading_markdown(content: Mapping[str, Any]) -> str:
    """The same as Markdown."""
    return markdown(loading_steps(content))


def markdown(steps: list[Step]) -> str:
    """Steps as Markdown."""
    return "\n\n".join(f"{step.text}\n\n```python\n{step.code}\n```" for step in steps)


def loading_steps(content: Mapping[str, Any]) -> list[Step]:
    """How to load each of the saved files.

    Args:
        content: The content of `report.json`.
    """
    settings = content["settings"]
    formats, name = settings["formats"], content["architecture"]
    steps = []
    if "saved_model" in formats:
        steps.append(_SAVED_MODEL)
    # Keras' class has all layers, so it cannot load the file of a network that was cut.
    if "h5" in formats and settings["last_layer"] is None:
        steps.append(_keras(content))
    if "npz" in formats:
        steps.append(_npz(name, settings["preprocessing"]))
    if "safetensors" in formats:
        steps.append(_safetensors(name))
    if "adain" in formats:
        steps.append(_adain(name))
    if "onnx" in formats:
        steps.append(_onnx(name))
    return steps


_SAVED_MODEL = Step(
    "In any TensorFlow program; images are float32, RGB, [B, H, W, 3], in [0, 1]:",
    "import tensorflow as tf\n"
    'vgg = tf.saved_model.load("saved_model")\n'
    'features = vgg(image)                        # {"block1_conv1": [B, H, W, 64], ...}\n'
    'early = vgg.signatures["block1"](image=image)  # computes no further than block 1',
)


def _keras(content: Mapping[str, Any]) -> Step:
    name, include_top = content["architecture"], content["settings"]["include_top"]
    note = (
        " Keras' class pools by max, these means are for average pooling: replace the pools."
        if content["pooling"] == "avg"
        else ""
    )
    if content["settings"]["padding"] != "zero":
        note += (
            " Keras' class pads with zeros, these means are for "
            f"{content['settings']['padding']} padding: pad before each convolution."
        )
    return Step(
        f"With keras.applications (preprocess with `keras.applications.{name}.preprocess_input`)."
        f"{note}",
        f"import keras\nkeras.applications.{name.upper()}(\n"
        f'    weights="{name}_normalized.weights.h5", include_top={include_top}\n)',
    )


def _npz(name: str, preprocessing: str) -> Step:
    return Step(
        "In NumPy, PyTorch or JAX (kernels are [h, w, in, out], the input is that of "
        f"`--preprocessing={preprocessing}`):",
        f'numpy.load("{name}_normalized.npz")["block1_conv1/kernel"]',
    )


def _safetensors(name: str) -> Step:
    return Step(
        "The same tensors for PyTorch and JAX:",
        "from safetensors.numpy import load_file\n"
        f'load_file("{name}_normalized.safetensors")["block1_conv1/kernel"]',
    )


def _adain(name: str) -> Step:
    return Step(
        "In naoto0804/pytorch-AdaIN, whose first layer converts RGB in [0, 1] and whose "
        "convolutions pad by reflection:",
        "from safetensors.torch import load_file\n"
        f'net.vgg.load_state_dict(load_file("{name}_normalized_adain.safetensors"))',
    )


def _onnx(name: str) -> Step:
    return Step(
        "In ONNX Runtime; `image` is float32, RGB, [B, H, W, 3], in [0, 1], as above:",
        "import onnxruntime\n"
        f'session = onnxruntime.InferenceSession("{name}_normalized.onnx")\n'
        "names = [output.name for output in session.get_outputs()]\n"
        'features = dict(zip(names, session.run(names, {"image": image})))',
    )
