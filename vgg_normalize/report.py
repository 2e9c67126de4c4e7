"""The report of a run: `report.json` for programs, `report.html` for people."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vgg_normalize import means as channel
from vgg_normalize import proof
from vgg_normalize.means import Means
from vgg_normalize.proof import Check

# A layer counts as normalised when its means are 1 within this, or within three standard errors.
NEAR_ONE = 0.05


def is_finished(directory: str) -> bool:
    """Whether a whole run stands in this directory."""
    path = Path(directory).expanduser() / "report.json"
    try:
        check = json.loads(path.read_text())["check"]
    except (OSError, ValueError, KeyError):
        return False
    return check is None or bool(check["passed"])


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(folder: Path, facts: Mapping[str, Any], means: Means, check: Check | None) -> None:
    """Write both files.

    Args:
        folder: Where to.
        facts: What `report.json` says of the run itself.
        means: What was measured.
        check: What the proof found; None for an audit.
    """
    content = {
        **facts,
        "layers": layers(means, check),
        "check": check
        and {
            "passed": check.passed,
            "images": check.images,
            "worst_mean_deviation": _number(check.worst_mean_deviation),
            "worst_feature_error": _number(check.worst_feature_error),
            "worst_output_error": _number(check.worst_output_error),
            "agreeing_means": check.agreeing,
        },
        "accuracy": accuracy(means),
    }
    (folder / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    (folder / "report.html").write_text(page(content, means, check))


def _number(value: float | None) -> float | str | None:
    """JSON knows no NaN and no infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def layers(means: Means, check: Check | None) -> list[dict[str, Any]]:
    """One entry for each layer, as the contract defines it."""
    entries = []
    for name, mean in means.mean.items():
        alive = mean > 0
        errors = means.standard_error[name][alive] / mean[alive]
        entries.append(
            {
                "name": name,
                "channels": len(mean),
                "dead": means.dead(name).tolist(),
                "rarely_firing": means.rarely_firing(name),
                "mean_before": _spread(mean),
                "mean_after": _spread(check.mean_after[name]) if check else None,
                "average_before": float(mean.mean()),
                "deviation_before": float(mean.std()),
                "max_relative_standard_error": _number(float(errors.max())) if len(errors) else None,
                "median_relative_standard_error": (
                    _number(float(np.median(errors))) if len(errors) else None
                ),
            }
        )
    return entries


def _spread(values: np.ndarray) -> dict[str, float | None]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {"min": None, "median": None, "max": None}
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
    }


def accuracy(means: Means) -> dict[str, Any]:
    """How accurate the means are, and how many such images 1 % would take.

    The standard error falls with the square root of the number of images.
    """
    errors = means.relative_errors()
    errors = errors[np.isfinite(errors)]
    if not len(errors):
        return {"images": means.images, "median": None, "share_95": None}
    median, share_95 = float(np.median(errors)), float(np.quantile(errors, 0.95))

    def needed(error: float) -> int:
        return math.ceil(means.images * (error / 0.01) ** 2)

    return {
        "images": means.images,
        "median": median,
        "share_95": share_95,
        "images_for_1_percent_median": needed(median),
        "images_for_1_percent_share_95": needed(share_95),
    }


def verdict(means: Means) -> str:
    """How far a network is from normalised, in one sentence."""
    apart = {name: float(abs(mean.mean() - 1)) for name, mean in means.mean.items()}
    worst = max(apart, key=lambda name: apart[name])
    mean, error = means.mean[worst], means.standard_error[worst]
    all_means = np.concatenate(list(means.mean.values()))
    all_errors = np.concatenate(list(means.standard_error.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(all_means - 1) > np.maximum(NEAR_ONE, 3 * all_errors)
    described = (
        f"farthest is {worst} with a layer average of {mean.mean():.3g} (filters {mean.min():.3g} "
        f"to {mean.max():.3g}, standard error {np.median(error):.2g}); {off.mean():.1%} of all "
        f"filters differ from 1 by more than {NEAR_ONE:.0%} and three standard errors"
    )
    if apart[worst] <= NEAR_ONE and off.mean() < 0.1:
        return f"This network is normalised for these images and this pooling: {described}."
    return f"This network is not normalised for these images and this pooling: {described}."


def summary(means: Means, check: Check | None, output: str) -> str:
    """What a person at the terminal wants to know at the end."""
    dead = sum(len(means.dead(name)) for name in means.mean)
    rare = sum(means.rarely_firing(name) for name in means.mean)
    lines = [f"{'layer':14}{'average':>10}{'min':>10}{'max':>10}{'rel. error':>12}"]
    for entry in layers(means, check):
        error = entry["median_relative_standard_error"]
        lines.append(
            f"{entry['name']:14}{entry['average_before']:10.4g}{entry['mean_before']['min']:10.4g}"
            f"{entry['mean_before']['max']:10.4g}"
            + (f"{error:12.2%}" if isinstance(error, float) else f"{'unknown':>12}")
        )
    lines.append(f"{means.images} images; {dead} dead and {rare} rarely firing filters.")
    if check is None:
        lines.append(verdict(means))
    else:
        lines.append(f"Proved: {proof.describe(check)}.")
    lines.append(f"Saved in {output}; open {Path(output) / 'report.html'}.")
    return "\n".join(lines)


def figure(values: Mapping[str, np.ndarray], title: str, ylabel: str) -> str:
    """The distribution of channel means by layer on a logarithmic axis: an <img> element."""
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
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.1), max(high, 10))
        axes.set_xticks(range(len(living)), list(living), rotation=40, ha="right")
        axes.set_ylabel(ylabel)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format="png", dpi=200)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{encoded}">'


_STYLE = """
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
    title = f"{name}: audit of channel means" if audit else f"{name} normalised to mean activation one"
    after = ""
    if check is not None:
        after = figure(check.mean_after, "After normalisation", "mean activation")
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead">{_source_line(content)}</p>',
        _verdict_box(content, means, check),
        "<h2>Channel means by layer</h2>",
        figure(
            means.mean, "As measured" if audit else "Before normalisation", "mean activation"
        ),
        after,
        "<p>Each dot is one filter: the mean of its activation after ReLU over all positions of "
        "all images. Boxes span the quartiles, whiskers 1.5 times that; the dashed line is 1."
        + ("" if audit else f" After: on the {check.images} checked images." if check else "")
        + "</p>",
        "<h2>Layers</h2>",
        _layer_table(content["layers"]),
        "<h2>Accuracy</h2>",
        f"<p>{_accuracy_text(content['accuracy'], settings)}</p>",
        "<h2>Dead filters and skipped images</h2>",
        _dead_and_skipped(content),
    ]
    if check is not None and check.passed:
        body += ["<h2>How to load it</h2>", _how_to_load(content)]
    body += [
        "<h2>Settings</h2>",
        _table(("setting", "value"), [(k, v) for k, v in settings.items()], text=True),
        f"<p>Images: {images['used']} used of <code>{html.escape(images['source'])}</code>, SHA-256 "
        f"of names and sizes <code>{images['sha256']}</code>.</p>",
        _table(("software", "version"), list(content["versions"].items()), text=True),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _source_line(content: Mapping[str, Any]) -> str:
    settings, images = content["settings"], content["images"]
    size = (
        "at native size"
        if settings["resize"] == "none"
        else f"{settings['resize']} to {settings['image_size']} pixels"
    )
    return (
        f"Weights <code>{html.escape(str(settings['weights']))}</code>, {content['pooling']} "
        f"pooling, {images['used']} images of <code>{html.escape(images['source'])}</code>, {size}. "
        f"{content['images_per_second']:.1f} images a second."
    )


def _verdict_box(content: Mapping[str, Any], means: Means, check: Check | None) -> str:
    if check is None:
        text = verdict(means)
        style = "verdict failed" if " not normalised" in text else "verdict"
        return f'<p class="{style}">{text}</p>'
    rows: list[Sequence[Any]] = [
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
    ]
    if check.worst_output_error is not None:
        rows.append(
            (
                "predictions are unchanged: max |z' - z| / max |z|",
                check.worst_output_error,
                proof.OUTPUT_TOLERANCE,
            )
        )
    table = _table(
        ("what was checked", "found", "limit"),
        [(what, f"{value:.1e}", f"{limit:.0e}") for what, value, limit in rows],
    )
    agreeing = (
        ""
        if check.images == means.images
        else f" {check.agreeing:.2%} of the filters' means on these images agree with the means "
        f"used within {proof.STANDARD_ERRORS:.0f} standard errors (at least "
        f"{proof.AGREEING_SHARE:.0%} must)."
    )
    if check.passed:
        lead = f"<b>Proved</b> on {check.images} images, on the files as written, read back."
    else:
        lead = f"<b>The proof failed</b> on {check.images} images; nothing was saved."
    return (
        f'<div class="verdict{"" if check.passed else " failed"}">{lead}{agreeing}{table}</div>'
    )


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
    return _table(header, rows)


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


def _dead_and_skipped(content: Mapping[str, Any]) -> str:
    parts = []
    dead = [(e["name"], ", ".join(map(str, e["dead"]))) for e in content["layers"] if e["dead"]]
    rare = sum(e["rarely_firing"] for e in content["layers"])
    if dead:
        parts.append("<p>These filters never fired; their scale is 1.</p>")
        parts.append(_table(("layer", "dead filters"), dead, text=True))
    else:
        parts.append("<p>No filter is dead.</p>")
    parts.append(
        f"<p>{rare} filters fire rarely (mean below {channel.RARE} of their layer's average).</p>"
    )
    skipped = content["images"]["skipped"]
    if skipped:
        rows = [(one["path"], one["reason"]) for one in skipped]
        parts.append(_table(("skipped image", "reason"), rows, text=True))
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
            "<p>In NumPy, PyTorch or JAX (kernels are [h, w, in, out], input BGR 0 to 255 less the "
            f'ImageNet mean):</p><pre>numpy.load("{name}_normalized.npz")["block1_conv1/kernel"]'
            "</pre>"
        )
    return "".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]], text: bool = False) -> str:
    style = ' class="text"' if text else ""
    head = "".join(f"<th{style}>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
