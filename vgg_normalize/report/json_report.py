"""The results of a run: `report.json` for programs, and a summary for the terminal."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL
import tensorflow as tf

from vgg_normalize import __version__, verification
from vgg_normalize.means import Means
from vgg_normalize.report import html_report, network_card
from vgg_normalize.verification import Check

# A layer counts as normalised when its means are 1 within this, or within three standard errors.
NEAR_ONE = 0.05


def is_finished(directory: str) -> bool:
    """Whether a directory holds the output of a run that succeeded."""
    path = Path(directory).expanduser() / "report.json"
    try:
        check = json.loads(path.read_text())["check"]
        return check is None or bool(check["passed"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or not a report
        return False


def versions() -> dict[str, str]:
    """The version of everything that the numbers depend on."""
    return {
        "vgg_normalize": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "platform": platform.platform(),
    }


def peak_memory() -> int:
    """Peak memory of this process in bytes; 0 if the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write(folder: Path, facts: Mapping[str, Any], means: Means, check: Check | None) -> None:
    """Write `report.json`, `report.html` and, of a network that was proved, the model card.

    Args:
        folder: Directory to write to.
        facts: The entries of `report.json` about the run itself.
        means: The channel means before normalisation.
        check: What the verification found; None for an audit.
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
            "silent_layers": list(check.silent),
        },
        "accuracy": accuracy(means),
        "verdict": verdict(means) if check is None else None,
        "normalised": is_normalized(means) if check is None else None,
    }
    write_json(folder, content)
    (folder / "report.html").write_text(html_report.render_html(content, means, check))
    if check is not None and check.passed:
        network_card.write(folder, content, means, check)


def write_json(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `report.json`."""
    (folder / "report.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def _number(value: float | None) -> float | str | None:
    """JSON knows no NaN and no infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def layers(means: Means, check: Check | None) -> list[dict[str, Any]]:
    """The entry of each layer in `report.json`."""
    entries = []
    for name, mean in means.mean.items():
        living = mean > 0
        errors = means.standard_error[name][living] / mean[living]
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
                "max_relative_standard_error": _number(float(errors.max()))
                if len(errors)
                else None,
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
    """How accurate the means are, and how many such images an accuracy of 1 % would take.

    A standard error e on n images falls as 1 / sqrt(n), so 1 % takes n (e / 0.01)^2 images.
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


def _distances(means: Means) -> tuple[dict[str, float], float]:
    """|layer average - 1| by layer, and the share of filters whose mean is not 1.

    A mean m with standard error e is not 1 if |m - 1| > max(NEAR_ONE, 3 e).
    """
    distances = {name: float(abs(mean.mean() - 1)) for name, mean in means.mean.items()}
    all_means = np.concatenate(list(means.mean.values()))
    all_errors = np.concatenate(list(means.standard_error.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.abs(all_means - 1) > np.maximum(NEAR_ONE, 3 * all_errors)
    return distances, float(off.mean())


def is_normalized(means: Means) -> bool:
    """Whether these are the means of a normalised network, as far as their errors tell."""
    distances, off = _distances(means)
    return max(distances.values()) <= NEAR_ONE and off < 0.1


def verdict(means: Means) -> str:
    """How far a network is from normalised, in one sentence."""
    distances, off = _distances(means)
    worst = max(distances, key=lambda name: distances[name])
    mean, error = means.mean[worst], means.standard_error[worst]
    described = (
        f"farthest is {worst} with a layer average of {mean.mean():.3g} (filters {mean.min():.3g} "
        f"to {mean.max():.3g}, standard error {np.median(error):.2g}); {off:.1%} of all "
        f"filters differ from 1 by more than {NEAR_ONE:.0%} and three standard errors"
    )
    normalised = "" if is_normalized(means) else "not "
    return f"This network is {normalised}normalised for these images and this pooling: {described}."


def summary(means: Means, check: Check | None, output: str) -> str:
    """The summary at the end of a run, for the terminal."""
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
        lines.append(f"Proved: {verification.describe(check)}.")
    lines.append(f"Saved in {output}; open {Path(output) / 'report.html'}.")
    return "\n".join(lines)
