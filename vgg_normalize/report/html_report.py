"""`report.html` of a normalisation or an audit: one page for people."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgg_normalize import verification
from vgg_normalize.means import RARE, Means
from vgg_normalize.report.figures import figure
from vgg_normalize.report.loading_guide import loading_guide
from vgg_normalize.report.page import page, table, verdict_box
from vgg_normalize.report.proof_table import proof_rows
from vgg_normalize.verification import Check


def render_html(content: Mapping[str, Any], means: Means, check: Check | None) -> str:
    """The whole of `report.html`.

    Args:
        content: The content of `report.json`.
        means: The channel means before normalisation.
        check: What the verification found; None for an audit.
    """
    name = content["architecture"].upper()
    title = (
        f"{name}: audit of channel means"
        if check is None
        else f"{name} normalised to mean activation one"
    )
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{_source_line(content)}</p>',
        _audit_verdict(content) if check is None else _check_verdict(content, means, check),
        _figures(content, means, check),
        "<h2>Layers</h2>",
        _layer_table(content["layers"]),
        "<h2>Accuracy</h2>",
        f"<p>{_accuracy_text(content['accuracy'], content['settings'])}"
        f"{_when_to_measure(content)}</p>",
        "<h2>Dead filters and skipped images</h2>",
        _dead_and_skipped(content),
    ]
    if check is not None and check.passed:
        body += ["<h2>How to load it</h2>", loading_guide(content)]
    return page(title, [*body, _settings(content)])


def _figures(content: Mapping[str, Any], means: Means, check: Check | None) -> str:
    """The distributions of the means before and, if there was a check, after normalisation."""
    positive = np.concatenate([mean[mean > 0] for mean in means.mean.values()])
    span = (positive.min(), positive.max()) if len(positive) else (1.0,)
    after = "" if check is None else figure(check.mean_after, "After normalisation", span)
    checked_on = "" if check is None else f" After: on the {check.images} checked images."
    return (
        "<h2>Channel means by layer</h2>"
        f"{figure(means.mean, _title_before(content), span)}{after}"
        "<p>Each dot is one filter: the mean of its activation after ReLU over all positions of "
        "all images. Boxes span the quartiles, whiskers 1.5 times that; the dashed line is 1."
        f"{checked_on}</p>"
    )


def _settings(content: Mapping[str, Any]) -> str:
    images = content["images"]
    return (
        "<h2>Settings</h2>"
        + table(("setting", "value"), list(content["settings"].items()), text=True)
        + f"<p>Images: {images['used']} used of <code>{html.escape(images['source'])}</code>, "
        f"SHA-256 of names and sizes <code>{images['sha256']}</code>.</p>"
        + table(("software", "version"), list(content["versions"].items()), text=True)
    )


def _title_before(content: Mapping[str, Any]) -> str:
    if content["check"] is None:
        return "As measured"
    return "Before normalisation" if content["images_per_second"] is not None else "As given"


def _source_line(content: Mapping[str, Any]) -> str:
    settings, images = content["settings"], content["images"]
    size = (
        "at native size"
        if settings["resize"] == "none"
        else f"{settings['resize']} to {settings['image_size']} pixels"
    )
    rate = content["images_per_second"]
    read = (
        f"{images['used']} images of <code>{html.escape(images['source'])}</code>, {size}"
        if rate is not None
        else f"means <code>{html.escape(str(content['means']['source']))}</code>"
    )
    padding = content["settings"]["padding"]
    padding = "" if padding == "zero" else f"{padding} padding, "
    return (
        f"Weights: {html.escape(content['weights']['description'])}. "
        f"{content['pooling'].capitalize()} pooling, {padding}{read}."
        + (f" {rate:.1f} images a second." if rate is not None else "")
    )


def _audit_verdict(content: Mapping[str, Any]) -> str:
    """The verdict of an audit; its colour is that of the data, whatever the words."""
    return verdict_box(content["normalised"], html.escape(content["verdict"]))


def _check_verdict(content: Mapping[str, Any], means: Means, check: Check) -> str:
    """The verdict of a check, with what was found and the limits."""
    if check.passed:
        lead = f"<b>Proved</b> on {check.images} images, on the files as written, read back."
    else:
        lead = f"<b>The proof failed</b> on {check.images} images; nothing was saved."
    return verdict_box(
        check.passed,
        lead
        + _check_notes(content, means, check)
        + table(("what was checked", "found", "limit"), proof_rows(check)),
        "div",
    )


def _check_notes(content: Mapping[str, Any], means: Means, check: Check) -> str:
    """What the check says of means that were not measured on its images, and of silent layers."""
    notes = ""
    if check.agreeing is None:
        notes += (
            f" The means were given ({html.escape(str(content['means']['source']))}, measured on "
            f"{means.images} images), not measured on the images of this check, which therefore "
            "says nothing of them."
        )
    elif check.images != means.images:
        notes += (
            f" {check.agreeing:.2%} of the filters' means on these images agree with the means used "
            f"within {verification.STANDARD_ERRORS:.0f} standard errors (at least "
            f"{verification.AGREEING_SHARE:.0%} must)."
        )
    if check.silent:
        notes += f" No filter fired in {', '.join(check.silent)}: nothing was compared there."
    return notes


def _layer_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        before, after = entry["mean_before"], entry["mean_after"]
        rows.append(
            (
                entry["name"],
                entry["channels"],
                len(entry["dead"]),
                entry["rarely_firing"],
                *(_short(before[key]) for key in ("min", "median", "max")),
                "" if after is None else f"{_exact(after['min'])} – {_exact(after['max'])}",
                _percent(entry["median_relative_standard_error"]),
                _percent(entry["max_relative_standard_error"]),
            )
        )
    header = (
        "layer",
        "filters",
        "dead",
        "rare",
        "min",
        "median",
        "max",
        "after",
        "median error",
        "max error",
    )
    return table(header, rows)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _exact(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"


def _percent(value: float | str | None) -> str:
    return f"{value:.2%}" if isinstance(value, float) else "unknown"


def _accuracy_text(accuracy: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if accuracy["median"] is None:
        return "One image gives no standard errors."
    target = settings["target_error"]
    text = (
        f"{accuracy['images']} images gave a relative standard error of {accuracy['median']:.2%} for the "
        f"median filter; 95 % of the living filters have at most {accuracy['share_95']:.2%}. "
    )
    if target:
        reached = "reached" if accuracy["share_95"] <= target else "not reached"
        text += f"Asked for were {target:.2%}, {reached} with these images. "
    return text + (
        f"1 % would take about {accuracy['images_for_1_percent_median']} such images for the median "
        f"filter and {accuracy['images_for_1_percent_share_95']} for 95 % of the filters."
    )


def _when_to_measure(content: Mapping[str, Any]) -> str:
    """When to measure anew instead of using the given means; empty if they were measured."""
    if content["images_per_second"] is not None:
        return ""
    return (
        " The table gives the errors of these given means by layer. Measuring anew, without "
        "<code>--means</code>, pays where more photographs are at hand and such errors matter, and is "
        "needed for another network, pooling, preprocessing or size."
    )


def _dead_and_skipped(content: Mapping[str, Any]) -> str:
    parts = []
    layers = content["layers"]
    dead = [
        (layer["name"], ", ".join(map(str, layer["dead"]))) for layer in layers if layer["dead"]
    ]
    rare = sum(layer["rarely_firing"] for layer in layers)
    if dead:
        parts.append("<p>These filters never fired; their scale is 1.</p>")
        parts.append(table(("layer", "dead filters"), dead, text=True))
    else:
        parts.append("<p>No filter is dead.</p>")
    parts.append(f"<p>{rare} filters fire rarely (mean below {RARE} of their layer's average).</p>")
    skipped = content["images"]["skipped"]
    if skipped:
        rows = [(image["path"], image["reason"]) for image in skipped]
        parts.append(table(("skipped image", "reason"), rows, text=True))
    else:
        parts.append("<p>No image was skipped.</p>")
    return "".join(parts)
