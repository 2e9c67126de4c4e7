"""`--task=compare`: two files of weights -> comparison -> report.json, report.html, scales.npz."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from vgg_normalize import comparison, shipped_means, vgg
from vgg_normalize.cli.settings import Settings
from vgg_normalize.errors import NetworkError
from vgg_normalize.networks import vgg_layers
from vgg_normalize.report import comparison_html, json_report
from vgg_normalize.runtime import staging
from vgg_normalize.runtime.progress import say
from vgg_normalize.weights import loading


def run(settings: Settings, directory: staging.StagingDirectory) -> None:
    """Compare `weights` with `reference` and write the results.

    Without --last_layer, as deep as both files go.

    Raises:
        NetworkError: Weights or means cannot be read.
        OutputError: The output cannot be written.
    """
    first, second = (
        _load(settings, source) for source in (settings.weights, settings.reference or "")
    )
    names = [name for name in first.arrays if name in second.arrays]
    whole = vgg_layers.weight_shapes(
        settings.architecture, settings.include_top, settings.last_layer
    )
    last = settings.last_layer if len(names) == len(whole) else names[-1]
    if last != settings.last_layer:
        say(f"compared as far as {last}, the last layer that both hold")
    model, reference = (_network(settings, loaded, last, names) for loaded in (first, second))
    result = comparison.compare(model, reference, tolerance=settings.tolerance)
    rows = None
    digest = ""
    if settings.means:
        means, digest = shipped_means.load_means(settings.means, settings.architecture)
        rows = comparison.compare_means(means, result)
    content: dict[str, Any] = {
        "architecture": settings.architecture,
        "task": settings.task,
        "settings": {**dataclasses.asdict(settings), "formats": list(settings.formats)},
        "weights": first.facts(),
        "reference": second.facts(),
        "means": {"source": settings.means, "sha256": digest} if settings.means else None,
        "compare": comparison.as_json(result, rows),
        "check": None,
        "versions": json_report.versions(),
    }
    with staging.guard_writes(directory.new):
        folder = directory.empty_new()
        json_report.write_json(folder, content)
        (folder / "report.html").write_text(comparison_html.render(content, result))
        result.save_scales(folder / "scales.npz")
    directory.commit()
    say(_summary(result, rows))
    say(f"Saved in {settings.output}; open {settings.output}/report.html.")


def _load(settings: Settings, source: str) -> loading.Weights:
    """Weights as deep as they go; where --last_layer is given, as deep as that."""
    return loading.load(
        source,
        settings.architecture,
        vgg_layers.weight_shapes(settings.architecture, settings.include_top, settings.last_layer),
        seed=settings.seed,
        partial=settings.last_layer is None and not settings.include_top,
    )


def _network(
    settings: Settings, loaded: loading.Weights, last: str | None, names: list[str]
) -> keras.Model:
    if loaded.conversion is not None:
        raise NetworkError(
            f"Expected weights of VGG's own layers. Received: {loaded.source}, which begins with a "
            "convolution of its own, so that its first layer cannot be compared. Undo it first."
        )
    options = vgg_layers.VggOptions(
        settings.architecture,
        include_top=settings.include_top,
        last_layer=last,
        preprocessing="caffe" if loaded.fixes_preprocessing else settings.preprocessing,
    )
    return vgg.with_weights(
        loaded._replace(arrays={name: loaded.arrays[name] for name in names}), options
    )


def _summary(result: comparison.Comparison, rows: list[dict[str, Any]] | None) -> str:
    """What a person at the terminal wants to know."""
    lines = [f"{'layer':14}{'residual':>10}{'biases':>10}{'min':>10}{'median':>10}{'max':>10}"]
    for entry in comparison.as_json(result)["layers"]:
        values = [entry["residual"], entry["bias_residual"], *entry["factor"].values()]
        lines.append(entry["name"].ljust(14) + "".join(_cell(value) for value in values))
    if rows:
        lines.append(f"{'layer':14}{'mean/factor':>18}{'correlation':>13}{'std errors':>12}")
    for row in rows or []:
        ratio = row["ratio"]
        spread = f"{ratio['mean']:.3f} ± {ratio['deviation']:.3f}" if ratio else ""
        cells = f"{_cell(row['log_correlation'], 13)}{_cell(row['rms_standard_errors'], 12)}"
        lines.append(f"{row['name']:14}{spread:>18}{cells}")
    return "\n".join([*lines, result.sentence])


def _cell(value: float | None, width: int = 10) -> str:
    return f"{'' if value is None else format(value, '.4g'):>{width}}"
