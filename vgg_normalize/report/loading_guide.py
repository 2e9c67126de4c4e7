"""The section of `report.html` on how to load what was saved, format by format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def loading_guide(content: Mapping[str, Any]) -> str:
    """How to load each of the saved files, as HTML.

    Args:
        content: The content of `report.json`.
    """
    settings = content["settings"]
    formats = settings["formats"]
    parts = []
    if "saved_model" in formats:
        parts.append(_saved_model())
    # Keras' class has all layers, so it cannot load the file of a network that was cut.
    if "h5" in formats and settings["last_layer"] is None:
        parts.append(_keras(content))
    if "npz" in formats:
        parts.append(_npz(content))
    if "safetensors" in formats:
        parts.append(_safetensors(content["architecture"]))
    if "adain" in formats:
        parts.append(_adain(content["architecture"]))
    return "".join(parts)


def _saved_model() -> str:
    return (
        "<p>In any TensorFlow program; images are float32, RGB, [B, H, W, 3], in [0, 1]:</p>"
        "<pre>import tensorflow as tf\n"
        'vgg = tf.saved_model.load("saved_model")\n'
        'features = vgg(image)                        # {"block1_conv1": [B, H, W, 64], ...}\n'
        'early = vgg.signatures["block1"](image=image)  # computes no further than block 1</pre>'
    )


def _keras(content: Mapping[str, Any]) -> str:
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
    return (
        f"<p>With keras.applications (preprocess with <code>keras.applications.{name}."
        f"preprocess_input</code>).{note}</p>"
        f"<pre>import keras\nkeras.applications.{name.upper()}(\n"
        f'    weights="{name}_normalized.weights.h5", include_top={include_top}\n)'
        "</pre>"
    )


def _npz(content: Mapping[str, Any]) -> str:
    return (
        "<p>In NumPy, PyTorch or JAX (kernels are [h, w, in, out], the input is that of "
        f"<code>--preprocessing={content['settings']['preprocessing']}</code>):</p>"
        f'<pre>numpy.load("{content["architecture"]}_normalized.npz")["block1_conv1/kernel"]</pre>'
    )


def _safetensors(name: str) -> str:
    return (
        "<p>The same tensors for PyTorch and JAX:</p><pre>from safetensors.numpy import load_file\n"
        f'load_file("{name}_normalized.safetensors")["block1_conv1/kernel"]</pre>'
    )


def _adain(name: str) -> str:
    return (
        "<p>In naoto0804/pytorch-AdaIN, whose first layer converts RGB in [0, 1] and whose "
        "convolutions pad by reflection:</p><pre>from safetensors.torch import load_file\n"
        f'net.vgg.load_state_dict(load_file("{name}_normalized_adain.safetensors"))</pre>'
    )
