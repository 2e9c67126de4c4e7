"""The model card of a styliser, made from the report of its training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgg_normalize.report import model_card
from vgg_normalize.report.loading_guide import Step, markdown

_TITLES = {
    "adain": "Styliser for any style (AdaIN)",
    "encoder": "Styliser for any style (learnt style encoder)",
    "cin": "Styliser for fixed styles (conditional instance normalisation)",
}
_DESCRIPTIONS = {
    "adain": "It renders a content picture in the style of any other picture in one pass: the moments "
    "of the style's VGG features replace the content's, and a decoder makes a picture of them (Huang "
    "and Belongie, ICCV 2017).",
    "encoder": "It renders a content picture in the style of any other picture in one pass: scales and "
    "offsets of its instance normalisations are predicted from the style (Ghiasi et al., BMVC 2017).",
    "cin": "It renders a content picture in one of the styles below, or in a mixture of them: each "
    "style has scales and offsets of its own (Dumoulin, Shlens and Kudlur, ICLR 2017).",
}
# What is known of the licence of each kind: what of the VGG is in it, besides what was learnt.
_LICENCES = {
    "adain": "The encoder is the VGG of the training and has its licence (CC BY 4.0 for the ImageNet "
    "weights of Simonyan and Zisserman); the decoder was learnt from the pictures named above.",
    "encoder": "The style's features are those of the VGG of the training, which has its own licence (CC "
    "BY 4.0 for the ImageNet weights of Simonyan and Zisserman); the rest was learnt from the pictures "
    "named above.",
    "cin": "All weights were learnt, from the pictures named above and from the losses of a VGG.",
}


def write(folder: Path, content: Mapping[str, Any], preview: str | None) -> None:
    """Write `README.md`.

    Args:
        folder: Directory of the network.
        content: The content of `report.json`.
        preview: Name of the sheet of pictures in that directory, if there is one.
    """
    method = content["method"]
    names = [entry["name"] for entry in content["formats"]]
    head = {
        "license": "other",
        "license_name": "unknown",
        "library_name": "tensorflow",
        "pipeline_tag": "image-to-image",
        "tags": ["style-transfer", method, "tensorflow", *(n for n in names if n != "saved_model")],
    }
    caption = "Contents in rows, styles in columns; the originals stand at the margins"
    sections = {
        "": _DESCRIPTIONS[method] + (f"\n\n![{caption}]({preview})" if preview else ""),
        "How to load it": markdown(_loading_steps(content)),
        "Styles": _styles(content["styles"]),
        "Files": model_card.file_table(content["formats"]),
        "Training": model_card.table(("setting", "value"), _training_rows(content)),
        "Licence": f"Unknown to the program. {_LICENCES[method]} Whether they may be used so is for "
        "you to say: correct the head of this card.",
    }
    model_card.write(folder, head, _TITLES[method], sections)


def _loading_steps(content: Mapping[str, Any]) -> list[Step]:
    """How to load each file; the images in it are float32, RGB, [B, H, W, 3], in [0, 1]."""
    other = "weights" if content["method"] == "cin" else "style"
    described = (
        f"`weights` are float32 [B, {len(content['styles'])}], one for each style"
        if other == "weights"
        else "`style` likewise"
    )
    steps = [
        _own_program(content),
        Step(
            "In any TensorFlow program, nothing else installed. `content` is float32, RGB, [B, H, W, "
            f"3], in [0, 1], of any size, and {described}:",
            "import tensorflow as tf\n"
            'network = tf.saved_model.load(".").signatures["serving_default"]\n'
            f'image = network(content=content, {other}={other})["image"]  # [B, H, W, 3]',
        ),
    ]
    sizes = {entry["name"]: entry.get("size") for entry in content["formats"]}
    if "onnx" in sizes:
        steps.append(_onnx(sizes["onnx"], other))
    if "litert" in sizes:
        steps.append(_litert(sizes["litert"], other))
    return steps


def _own_program(content: Mapping[str, Any]) -> Step:
    style = (
        json.dumps(content["styles"][0])
        if content["method"] == "cin"
        else 'style.load_image("painting.jpg")'
    )
    return Step(
        "With the program that trained it:",
        "import style\n"
        'stylizer = style.load_stylizer(".")\n'
        'content = style.load_image("photo.jpg")\n'
        f"image = stylizer(content, {style})",
    )


def _onnx(size: int | None, other: str) -> Step:
    limit = "any size" if size is None else f"{size} x {size} pixels"
    return Step(
        f"In ONNX Runtime, pictures of {limit}:",
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("network.onnx")\n'
        f'(image,) = session.run(["image"], {{"content": content, "{other}": {other}}})',
    )


def _litert(size: int | None, other: str) -> Step:
    return Step(
        f"In LiteRT, one picture of {size} x {size} pixels at a time:",
        "from ai_edge_litert.interpreter import Interpreter\n"
        'network = Interpreter("network.tflite").get_signature_runner("serving_default")\n'
        f'image = network(content=content, {other}={other})["image"]',
    )


def _styles(names: list[str]) -> str:
    """The styles of a network of fixed styles, in the order of their weights."""
    return "\n".join(f"{i}. {model_card.escaped(name)}" for i, name in enumerate(names, 1))


def _training_rows(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Facts of the training; of paths only the names, for a card is published."""
    settings, losses = content["settings"], content["losses"]
    layers = {
        kind: ", ".join(f"{name}:{weight:g}" for name, weight in settings[f"{kind}_layers"])
        for kind in ("content", "style")
    }
    rows = [
        ("contents", Path(settings["content"]).name),
        ("styles", Path(settings["style"]).name),
        ("VGG of the losses", Path(settings["model"]).name),
        ("steps", content["steps"]),
        ("pictures a step", settings["batch_size"]),
        ("size", f"{settings['size']} x {settings['size']} pixels"),
        ("learning rate", f"{settings['learning_rate']:g}"),
        ("content layers", "that of AdaIN" if content["method"] == "adain" else layers["content"]),
        ("style layers", layers["style"]),
        ("style loss", f"{settings['style_loss']}, weight {settings['style_weight']:g}"),
        ("seconds", f"{content['seconds']:.0f}"),
    ]
    for key in ("first", "last"):
        if losses[key] is not None:
            rows.append(
                (f"loss before step {losses[key]['step'] + 1}", f"{losses[key]['loss']:.5g}")
            )
    return rows
