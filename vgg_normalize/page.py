"""`report.html`: one page for people, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgg_normalize import means as channel
from vgg_normalize import proof
from vgg_normalize.means import Means
from vgg_normalize.proof import Check


def figure(
    values: Mapping[str, np.ndarray],
    title: str,
    span: Sequence[float],
    *,
    unit: str = "mean activation",
) -> str:
    """The distribution of a number of each filter by layer on a logarithmic axis: an <img> element.

    Args:
        values: Layer name to numbers; only positive ones are drawn.
        title: What they are.
        span: Numbers that the axis must reach besides, so that two figures have the same one.
        unit: The label of the axis.
    """
    import matplotlib
    from matplotlib.figure import Figure

    living = {name: mean[np.isfinite(mean) & (mean > 0)] for name, mean in values.items()}
    with matplotlib.rc_context({"font.family": "serif", "font.size": 9}):
        drawing = Figure(figsize=(7.2, 3.1), layout="constrained")
        axes = drawing.add_subplot()
        random = np.random.Generator(np.random.PCG64(0))
        for i, mean in enumerate(living.values()):
            at = i + random.uniform(-0.28, 0.28, len(mean))
            axes.plot(at, mean, ".", ms=2, alpha=0.35, color="#3a6ea5", mew=0, rasterized=True)
        axes.boxplot(
            list(living.values()),
            positions=range(len(living)),
            widths=0.62,
            showfliers=False,
            medianprops={"color": "#b3361e", "linewidth": 1.4},
            boxprops={"linewidth": 0.8},
            whiskerprops={"linewidth": 0.8},
            capprops={"linewidth": 0.8},
        )
        axes.axhline(1, color="#777777", linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yscale("log")
        axes.set_ylim(min(0.1, *span) / 2, max(10.0, *span) * 2)
        axes.set_xticks(range(len(living)), list(living), rotation=40, ha="right")
        axes.set_ylabel(unit)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=200)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{encoded}">'


STYLE = """
body { font: 16px/1.5 Georgia, "Times New Roman", serif; color: #1c1c1c; background: #fff;
  max-width: 54rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; font-weight: normal; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid #ccc; }
p.lead { color: #555; margin-top: 0; } img { width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: .2rem .55rem; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
thead th { border-top: 2px solid #333; border-bottom: 1px solid #333; font-weight: normal; }
tbody tr:last-child td { border-bottom: 2px solid #333; }
.verdict { border-left: 4px solid #2e7d4f; background: #f1f7f3; padding: .6rem 1rem; }
.failed { border-color: #b3361e; background: #fbf1ef; }
pre { background: #f5f5f2; padding: .8rem 1rem; overflow-x: auto; font-size: .82rem; }
td.text { text-align: left; } code { font-size: .9em; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } }
"""


def page(content: Mapping[str, Any], means: Means, check: Check | None) -> str:
    """The whole of `report.html`: nothing is loaded from elsewhere."""
    settings, images = content["settings"], content["images"]
    name = content["architecture"].upper()
    audit = check is None
    title = (
        f"{name}: audit of channel means" if audit else f"{name} normalised to mean activation one"
    )
    living = np.concatenate([mean[mean > 0] for mean in means.mean.values()])
    span = (living.min(), living.max()) if len(living) else (1.0,)
    after, checked_on = "", ""
    if check is not None:
        after = figure(check.mean_after, "After normalisation", span)
        checked_on = f" After: on the {check.images} checked images."
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{_source_line(content)}</p>',
        _verdict_box(content, means, check),
        "<h2>Channel means by layer</h2>",
        figure(means.mean, _title_before(content), span),
        after,
        "<p>Each dot is one filter: the mean of its activation after ReLU over all positions of "
        "all images. Boxes span the quartiles, whiskers 1.5 times that; the dashed line is 1."
        f"{checked_on}</p>",
        "<h2>Layers</h2>",
        _layer_table(content["layers"]),
        "<h2>Accuracy</h2>",
        f"<p>{_accuracy_text(content['accuracy'], settings)}{_when_to_measure(content)}</p>",
        "<h2>Dead filters and skipped images</h2>",
        _dead_and_skipped(content),
    ]
    if check is not None and check.passed:
        body += ["<h2>How to load it</h2>", _how_to_load(content)]
    body += [
        "<h2>Settings</h2>",
        table(("setting", "value"), [(k, v) for k, v in settings.items()], text=True),
        f"<p>Images: {images['used']} used of <code>{html.escape(images['source'])}</code>, SHA-256 "
        f"of names and sizes <code>{images['sha256']}</code>.</p>",
        table(("software", "version"), list(content["versions"].items()), text=True),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
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
    return (
        f"Weights: {html.escape(content['weights']['description'])}. "
        f"{content['pooling'].capitalize()} pooling, {read}."
        + (f" {rate:.1f} images a second." if rate is not None else "")
    )


def _verdict_box(content: Mapping[str, Any], means: Means, check: Check | None) -> str:
    if check is None:
        text = content["verdict"]
        style = "verdict" if content["normalised"] else "verdict failed"
        return f'<p class="{style}">{text}</p>'
    found = [
        (
            "features are the originals divided by the scales: max |s f' - f| / max |f|",
            check.worst_feature_error,
            proof.FEATURE_TOLERANCE,
        ),
        (
            "channel means are one: max |s m' - m| / max(m, 0.001 average)",
            check.worst_mean_deviation,
            proof.MEAN_TOLERANCE,
        ),
        (
            "predictions are unchanged: max |z' - z| / max |z|",
            check.worst_output_error,
            proof.OUTPUT_TOLERANCE,
        ),
    ]
    rows = [
        (what, f"{value:.1e}", f"{limit:.0e}") for what, value, limit in found if value is not None
    ]
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
            f"within {proof.STANDARD_ERRORS:.0f} standard errors (at least "
            f"{proof.AGREEING_SHARE:.0%} must)."
        )
    if check.silent:
        notes += f" No filter fired in {', '.join(check.silent)}: nothing was compared there."
    if check.passed:
        lead = f"<b>Proved</b> on {check.images} images, on the files as written, read back."
    else:
        lead = f"<b>The proof failed</b> on {check.images} images; nothing was saved."
    figures = table(("what was checked", "found", "limit"), rows)
    return f'<div class="verdict{"" if check.passed else " failed"}">{lead}{notes}{figures}</div>'


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


def _accuracy_text(found: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    if found["median"] is None:
        return "One image gives no standard errors."
    asked = settings["target_error"]
    text = (
        f"{found['images']} images gave a relative standard error of {found['median']:.2%} for the "
        f"median filter; 95 % of the living filters have at most {found['share_95']:.2%}. "
    )
    if asked:
        reached = "reached" if found["share_95"] <= asked else "not reached"
        text += f"Asked for were {asked:.2%}, {reached} with these images. "
    return text + (
        f"1 % would take about {found['images_for_1_percent_median']} such images for the median "
        f"filter and {found['images_for_1_percent_share_95']} for 95 % of the filters."
    )


def _when_to_measure(content: Mapping[str, Any]) -> str:
    """For means that were given: when one's own are better."""
    if content["images_per_second"] is not None:
        return ""
    return (
        " The table gives the errors of these given means by layer. Measuring anew, without "
        "<code>--means</code>, pays where more photographs are at hand and such errors matter, and is "
        "needed for another network, pooling, preprocessing or size."
    )


def _dead_and_skipped(content: Mapping[str, Any]) -> str:
    parts = []
    dead = [(e["name"], ", ".join(map(str, e["dead"]))) for e in content["layers"] if e["dead"]]
    rare = sum(e["rarely_firing"] for e in content["layers"])
    if dead:
        parts.append("<p>These filters never fired; their scale is 1.</p>")
        parts.append(table(("layer", "dead filters"), dead, text=True))
    else:
        parts.append("<p>No filter is dead.</p>")
    parts.append(
        f"<p>{rare} filters fire rarely (mean below {channel.RARE} of their layer's average).</p>"
    )
    skipped = content["images"]["skipped"]
    if skipped:
        rows = [(one["path"], one["reason"]) for one in skipped]
        parts.append(table(("skipped image", "reason"), rows, text=True))
    else:
        parts.append("<p>No image was skipped.</p>")
    return "".join(parts)


def _how_to_load(content: Mapping[str, Any]) -> str:
    settings = content["settings"]
    name, formats = content["architecture"], settings["formats"]
    parts = []
    if "saved_model" in formats:
        parts.append(
            "<p>In any TensorFlow program; images are float32, RGB, [B, H, W, 3], in [0, 1]:</p>"
            "<pre>import tensorflow as tf\n"
            'vgg = tf.saved_model.load("saved_model")\n'
            'features = vgg(image)                        # {"block1_conv1": [B, H, W, 64], ...}\n'
            'early = vgg.signatures["block1"](image=image)  # computes no further than block 1</pre>'
        )
    if "h5" in formats and settings["last_layer"] is None:
        note = (
            " Keras' class pools by max, these means are for average pooling: replace the pools."
            if content["pooling"] == "avg"
            else ""
        )
        parts.append(
            f"<p>With keras.applications (preprocess with <code>keras.applications.{name}."
            f"preprocess_input</code>).{note}</p>"
            f"<pre>import keras\nkeras.applications.{name.upper()}(\n"
            f'    weights="{name}_normalized.weights.h5", include_top={settings["include_top"]}\n)'
            "</pre>"
        )
    if "npz" in formats:
        parts.append(
            "<p>In NumPy, PyTorch or JAX (kernels are [h, w, in, out], the input is that of "
            f"<code>--preprocessing={settings['preprocessing']}</code>):</p>"
            f'<pre>numpy.load("{name}_normalized.npz")["block1_conv1/kernel"]</pre>'
        )
    if "safetensors" in formats:
        parts.append(
            "<p>The same tensors for PyTorch and JAX:</p><pre>from safetensors.numpy import load_file\n"
            f'load_file("{name}_normalized.safetensors")["block1_conv1/kernel"]</pre>'
        )
    if "adain" in formats:
        parts.append(
            "<p>In naoto0804/pytorch-AdaIN, whose first layer converts RGB in [0, 1] and whose "
            "convolutions pad by reflection:</p><pre>from safetensors.torch import load_file\n"
            f'net.vgg.load_state_dict(load_file("{name}_normalized_adain.safetensors"))</pre>'
        )
    return "".join(parts)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], text: bool = False) -> str:
    """A <table> of escaped cells; `text` aligns them left."""
    style = ' class="text"' if text else ""
    head = "".join(f"<th{style}>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
