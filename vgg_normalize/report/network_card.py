"""The model card of a normalised network, made from its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vgg_normalize.means import Means
from vgg_normalize.report import model_card
from vgg_normalize.report.figures import figure_png
from vgg_normalize.report.loading_guide import loading_markdown
from vgg_normalize.report.proof_table import proof_rows
from vgg_normalize.verification import Check

FIGURE = "means.png"
# Weights that are known to be the ImageNet weights of Simonyan and Zisserman, whose licence this is.
_IMAGENET = ("imagenet", "imagenet_8bit")
_LICENCES = {
    "cc-by-4.0": "The weights are those that K. Simonyan and A. Zisserman (Visual Geometry Group, "
    "University of Oxford) published under CC BY 4.0, each filter divided by its mean activation.",
    "other": "The licence of these weights is that of the weights that were normalised, which the "
    "program does not know.",
}


def write(folder: Path, content: Mapping[str, Any], means: Means, check: Check) -> None:
    """Write `README.md`, and the figure that it shows.

    Args:
        folder: Directory to write to.
        content: The content of `report.json`, of a normalisation that was proved.
        means: The channel means that the network was normalised with.
        check: What the verification found.
    """
    name = content["architecture"].upper()
    title = f"{name} normalised to mean activation one"
    (folder / FIGURE).write_bytes(figure_png(means.mean, "Channel means before normalisation"))
    licence = "cc-by-4.0" if content["settings"]["weights"] in _IMAGENET else "other"
    proof = model_card.table(("what was checked", "found", "limit"), proof_rows(check))
    sections = {
        "": _description(content),
        "How to load it": loading_markdown(content),
        "Files": model_card.file_table(content.get("formats", ())),
        "Means": f"{_means_line(content, means)}\n\n![Channel means by layer]({FIGURE})\n\n"
        + _mean_table(content["layers"]),
        "Proof": f"On {check.images} images, on the files as written, read back. f, m and z are "
        "features, channel means and outputs of the original network, f', m' and z' those of this "
        f"one, s the scales.\n\n{proof}",
        "Licence": _LICENCES[licence],
    }
    model_card.write(folder, _head(content, licence), title, sections)


def _head(content: Mapping[str, Any], licence: str) -> dict[str, Any]:
    head: dict[str, Any] = {"license": licence}
    if licence == "other":
        head["license_name"] = "unknown"
    formats = content["settings"]["formats"]
    tags = ["vgg", content["architecture"], "feature-extraction", "style-transfer", "tensorflow"]
    return head | {
        "library_name": "tensorflow" if "saved_model" in formats else "keras",
        "pipeline_tag": "image-feature-extraction",
        "tags": tags + (["onnx"] if "onnx" in formats else []),
    }


def _description(content: Mapping[str, Any]) -> str:
    padding = content["settings"]["padding"]
    return (
        f"{content['architecture'].upper()} ({model_card.escaped(content['weights']['description'])}; "
        f"{content['pooling']} pooling, {padding} padding), every filter scaled so that its mean "
        "activation over images and positions is one, as Gatys, Ecker and Bethge (CVPR 2016) used it "
        "for style transfer. The network's function stays: each layer also undoes the scale of its "
        "input. Losses of different layers become comparable."
    )


def _means_line(content: Mapping[str, Any], means: Means) -> str:
    given = content["means"]["source"]
    source = (
        "Measured"
        if given == "measured"
        else f"Given ({model_card.escaped(Path(str(given)).name)}), measured"
    )
    error = content["accuracy"]["median"]
    accuracy = (
        "" if error is None else f"; relative standard error of the median filter {error:.2%}"
    )
    return (
        f"{source} on {means.images} images{accuracy}. Of the original network, by layer; each dot "
        "is one filter."
    )


def _mean_table(layers: list[Mapping[str, Any]]) -> str:
    rows = [
        (
            entry["name"],
            entry["channels"],
            len(entry["dead"]),
            *(f"{entry['mean_before'][key]:.4g}" for key in ("min", "median", "max")),
        )
        for entry in layers
    ]
    return model_card.table(("layer", "filters", "dead", "min", "median", "max"), rows)
