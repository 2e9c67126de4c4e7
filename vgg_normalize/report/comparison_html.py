"""`report.html` of a comparison: one page for people."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from vgg_normalize.comparison import SHOWN, Comparison, LayerComparison, as_json
from vgg_normalize.report.figures import figure
from vgg_normalize.report.page import page, table, verdict_box

TITLE = "Two networks compared up to scales"


def render(content: Mapping[str, Any], comparison: Comparison) -> str:
    """The whole page.

    Args:
        content: The content of `report.json`: "settings" and "versions"; optionally "weights" and
            "reference" ("source" and "description" each), and the "means" of "compare".
        comparison: The result; its `same` is the verdict.
    """
    entries = as_json(comparison)["layers"]
    body = [
        f"<h1>{TITLE}</h1>",
        _sources(content),
        verdict_box(comparison.same, html.escape(comparison.sentence)),
        _factors(comparison.layers),
        "<h2>Layers</h2>",
        _layer_table(entries),
        "<p>Residuals are norms of differences over the norms of the reference's kernels and "
        "biases, with the factors of the layer and of its input undone. A layer counts as the "
        f"reference's up to a residual of {comparison.tolerance:g}.</p>",
        _hints(entries),
        _means(content.get("compare", {}).get("means")),
        "<h2>Settings</h2>",
        table(("setting", "value"), list(content["settings"].items()), text=True),
        table(("software", "version"), list(content["versions"].items()), text=True),
    ]
    return page(TITLE, body)


def _sources(content: Mapping[str, Any]) -> str:
    """The two networks that were compared, as far as the content names them."""
    lines = []
    for key, name in (("weights", "Weights"), ("reference", "Reference")):
        entry = content.get(key) or {}
        source = entry.get("source")
        parts = [f"<code>{html.escape(str(source))}</code>"] if source else []
        parts += [html.escape(str(entry["description"]))] if entry.get("description") else []
        if parts:
            lines.append(f"{name}: {', '.join(parts)}.")
    return f'<p class="lead">{"<br>".join(lines)}</p>' if lines else ""


def _factors(layers: Sequence[LayerComparison]) -> str:
    factors = {layer.name: layer.scale[layer.known] for layer in layers if layer.known.any()}
    if not factors:
        return ""
    ends = [end for scale in factors.values() for end in (scale.min(), scale.max())]
    return (
        "<h2>Factors by layer</h2>"
        + figure(
            factors,
            "Reference's activation over weights'",
            (min(ends), max(ends)),
            unit="factor",
        )
        + "<p>Each dot is one filter: what its activation in the reference is divided by to give "
        "that of the weights. Where the weights are normalised, it is the mean activation. Boxes "
        "span the quartiles, whiskers 1.5 times that; the dashed line is 1.</p>"
    )


def _layer_table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for entry in entries:
        residuals = [_format(entry[key], ".4f") for key in ("residual", "bias_residual")]
        factors = [_format(entry["factor"][key], ".4g") for key in ("min", "median", "max")]
        differing = entry["differing"]
        indices = ", ".join(map(str, differing[:SHOWN])) + (", ..." if differing[SHOWN:] else "")
        summary = f"{len(differing)}: {indices}" if differing else "none"
        rows.append((entry["name"], entry["filters"], *residuals, *factors, summary))
    header = ("layer", "filters", "residual", "bias residual", "min", "median", "max", "differing")
    return table(header, rows)


def _hints(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [(entry["name"], entry["hint"]) for entry in entries if entry["hint"]]
    header = ("layer", "what the differing filters look like")
    return table(header, rows, text=True) if rows else ""


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _means(rows: Sequence[Mapping[str, Any]] | None) -> str:
    """How the reference's means agree with the factors; nothing without means."""
    if rows is None:
        return ""
    keys = ("log_correlation", "rms_standard_errors", "rms_about_average")
    formats = (".4f", ".2f", ".2f")
    cells = []
    for row in rows:
        ratio = row["ratio"]
        spread = "" if ratio is None else f"{ratio['mean']:.3f} ± {ratio['deviation']:.3f}"
        values = [_format(row[key], form) for key, form in zip(keys, formats, strict=True)]
        cells.append((row["name"], spread, *values))
    header = ("layer", "mean / factor", "log correlation", "errors", "errors about average")
    return (
        "<h2>Means and factors</h2>"
        + table(header, cells)
        + "<p>The reference's mean activations over the factors, average and standard deviation "
        "over filters; the correlation of their logarithms; and the root mean square of their "
        "differences in standard errors of the means, as they are and less their average.</p>"
    )
