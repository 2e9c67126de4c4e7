"""Figures of the reports, inside the page, and of the model cards."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np


def figure(
    values: Mapping[str, np.ndarray],
    title: str,
    span: Sequence[float],
    *,
    unit: str = "mean activation",
) -> str:
    """The picture of `figure_png` as an <img> element; the arguments are the same."""
    encoded = base64.b64encode(figure_png(values, title, span, unit=unit)).decode()
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{encoded}">'


def figure_png(
    values: Mapping[str, np.ndarray],
    title: str,
    span: Sequence[float] = (1.0,),
    *,
    unit: str = "mean activation",
) -> bytes:
    """Draw one number per filter by layer on a logarithmic axis.

    Args:
        values: Layer name to one number per filter, [C]; only positive ones are drawn.
        title: Title of the figure.
        span: Numbers that the axis must include, so that two figures can share one axis.
        unit: Label of the axis.

    Returns:
        A PNG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    positive = {
        name: numbers[np.isfinite(numbers) & (numbers > 0)] for name, numbers in values.items()
    }
    with matplotlib.rc_context({"font.family": "serif", "font.size": 9}):
        canvas = Figure(figsize=(7.2, 3.1), layout="constrained")
        axes = canvas.add_subplot()
        random = np.random.Generator(np.random.PCG64(0))
        for i, numbers in enumerate(positive.values()):
            x = i + random.uniform(-0.28, 0.28, len(numbers))
            axes.plot(x, numbers, ".", ms=2, alpha=0.35, color="#3a6ea5", mew=0, rasterized=True)
        axes.boxplot(
            list(positive.values()),
            positions=range(len(positive)),
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
        axes.set_xticks(range(len(positive)), list(positive), rotation=40, ha="right")
        axes.set_ylabel(unit)
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        canvas.savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()
