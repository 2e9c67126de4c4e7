"""Sizes of the pictures to optimise in turn, and the evaluations at each."""

from __future__ import annotations

from collections.abc import Sequence

from style.images import resizing
from vgg_normalize.errors import ImagesError, UsageError


def require_at_least(least: int, shapes: Sequence[tuple[int, int]]) -> None:
    """Raises ImagesError where a side is smaller."""
    for shape in shapes:
        if min(shape) < least:
            raise ImagesError(
                f"Expected pictures of at least {least} pixels for these layers. Received: "
                f"{shape[0]} x {shape[1]}. Raise `size`, or leave out deep layers."
            )


def require_multiples(shape: tuple[int, int], multiple: int) -> None:
    """Raises UsageError, with sides that will do, unless both are multiples."""
    if not any(side % multiple for side in shape):
        return
    nearby = sorted(range(multiple, 4 * max(shape), multiple), key=lambda n: abs(n - max(shape)))
    fitting = (resizing.shape_for(shape, side) for side in nearby)
    nearest = next((s for s in fitting if not any(side % multiple for side in s)), None)
    height, width = (max(round(side / multiple), 1) * multiple for side in shape)
    advice = f"Crop the picture to the aspect of {height} x {width}"
    if nearest is not None:
        advice = f"Use `size={max(nearest)}` ({nearest[0]} x {nearest[1]}), or crop the picture"
    raise UsageError(
        f"Expected sides that are multiples of {multiple} pixels for a picture that wraps around. "
        f"Received: {shape[0]} x {shape[1]}. {advice}."
    )


def coarse_to_fine(
    shape: tuple[int, int], scales: int, least: int, *, factor: float = 2.0, multiple: int = 1
) -> list[tuple[int, int]]:
    """Sizes of the pictures to optimise in turn, the last one whole.

    Args:
        shape: Of the result.
        scales: How many; fewer where a side would fall below `least`.
        least: In pixels.
        factor: What each long side is of the one before, above 1.
        multiple: Sides are rounded to multiples of so many pixels.
    """
    sizes = []
    for i in reversed(range(scales)):
        height, width = resizing.shape_for(shape, max(shape) / factor**i)
        sizes.append((round(height / multiple) * multiple, round(width / multiple) * multiple))
    return [size for size in sizes if min(size) >= least] or [shape]


def steps_by_size(steps: int, coarse: Sequence[int], sizes: int) -> list[int]:
    """Evaluations at each size, from the coarsest.

    Args:
        steps: At the last size.
        coarse: At the sizes before, from the coarsest; the last number serves those beyond it too.
            Empty: `steps`.
        sizes: How many there are.
    """
    given = [*coarse, *[coarse[-1] if coarse else steps] * sizes]
    return [*given[: sizes - 1], steps]
