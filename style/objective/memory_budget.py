"""How much memory a run will need, and how much there is: known before minutes of work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from style.objective import tiling
from style.objective.tile_references import numbers_kept
from style.objective.tiled_objective import MAX_SUMS
from vgg_normalize.errors import DevicesError
from vgg_normalize.networks import chain

# What an evaluation works on besides the features that it keeps for the backward pass, in sizes of
# the largest layer: gradients, windows of convolutions, oneDNN's copies (more of them on processors
# without AVX-512), what the allocator keeps.
WORKING = 6
# Sizes of the weights that the kernels take which `winograd` makes ready.
WEIGHTS = 4
# Pictures besides the history: where the run is, where it tries, directions, gradients, spectra, and
# the content; of Adam moments instead.
PICTURES = {"lbfgs": 24, "adam": 14}
# Of projections: sorted, with their order, what they are compared with, and their gradient.
SORTING = 6
# Graphs and their executors.
GRAPHS = 0.2 * 2**30
# A history of L-BFGS that is proposed where a longer one takes the memory.
HISTORY_SIZE = 30
# Tiles that are proposed, the best first.
TILES = (1024, 512, 256, 128)


def estimate(
    model: keras.Model,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    optimizer: str = "lbfgs",
    history_size: int = 30,
    tile: int = 0,
    compared: Sequence[str] = (),
    projected: Sequence[str] = (),
) -> int:
    """Bytes that optimising a picture takes beyond what the process has, about.

    Args:
        model: A chain of layers.
        names: Names of the layers that the objective takes.
        shapes: Height and width in pixels of the result, and of the styles.
        optimizer: "lbfgs" or "adam".
        history_size: Pairs (s, y) that L-BFGS keeps in memory.
        tile: Pixels a side of tiles; 0: none.
        compared: Names of the layers in which the objective compares with the content.
        projected: Names of the layers of which the objective sorts projections.
    """
    largest = max(_features(model, names, shape, tile) for shape in shapes)
    weights = sum(int(np.prod(weight.shape)) for weight in model.weights) * 4
    copies = PICTURES[optimizer] + (2 * history_size if optimizer == "lbfgs" else 0)
    picture = 12 * shapes[0][0] * shapes[0][1]
    kept = 0
    if tile and tile < max(shapes[0]):
        layers = tiling.layer_shapes(model, compared, shapes[0])
        kept = 4 * numbers_kept({name: layers[name] for name in compared})
    sorting = max((_projections(model, projected, shape, tile) for shape in shapes), default=0)
    rest = WEIGHTS * weights + GRAPHS + SORTING * sorting
    return int(largest + copies * picture + kept + rest)


def _projections(
    model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int
) -> int:
    """Bytes of the projections that are in memory together."""
    sizes = [int(np.prod(s)) for s in tiling.layer_shapes(model, names, shape).values()]
    largest = max(sizes) if names else 0
    return 4 * (min(largest, MAX_SUMS) if tile else largest)


def _features(model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int) -> int:
    """Bytes for the largest window: all activations as far as the deepest layer, and the work."""
    height, width = tiling.largest_window(model, names, shape, tile)
    tensor: Any = keras.KerasTensor((1, height, width, 3))
    sizes = []
    layers = sorted(set(names) - {tiling.IMAGE})
    if not layers:
        return 0
    for layer in chain.layers_up_to(model, chain.activations(model, layers).values()):
        tensor = layer.compute_output_spec(tensor)
        sizes.append(4 * int(np.prod(tensor.shape)))
    return sum(sizes) + WORKING * max(sizes)


def available() -> int | None:
    """Bytes that this process may still take; None where it cannot be told.

    The least of what the system has and what a container (cgroup) leaves.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = dict(line.split(":") for line in lines)
        room = 1024 * int(values["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None
    for folder, limit, used, reclaimable in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        (
            "/sys/fs/cgroup/memory",
            *("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
    ):
        try:
            left = int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
        except (OSError, ValueError):  # not in a container, or one without a limit
            continue
        room = min(room, max(left + _reclaimable(Path(folder, "memory.stat"), reclaimable), 0))
    return room


def _reclaimable(path: Path, key: str) -> int:
    """Pages of files that were read, which count as used until somebody wants the memory."""
    try:
        values = dict(line.split() for line in path.read_text().splitlines())
        return int(values[key])
    except (OSError, ValueError, KeyError):
        return 0


def require_memory(
    model: keras.Model,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    optimizer: str,
    history_size: int,
    tile: int,
    compared: Sequence[str] = (),
    projected: Sequence[str] = (),
) -> None:
    """See that a run fits into memory; for the arguments see `estimate`.

    Raises:
        DevicesError: It does not; the message says how much it needs, how much there is, and which
            history or tile fits.
    """
    room = available()
    if room is None:
        return

    def need(tile: int, history_size: int = history_size) -> int:
        return estimate(
            *(model, names, shapes),
            optimizer=optimizer,
            history_size=history_size,
            tile=tile,
            compared=compared,
            projected=projected,
        )

    needed = need(tile)
    if needed <= room:
        return
    smaller = [side for side in TILES if not tile or side < tile]
    proposals = []
    if optimizer == "lbfgs" and history_size > HISTORY_SIZE:
        proposals.append((f"`history_size={HISTORY_SIZE}`", need(tile, HISTORY_SIZE)))
    proposals += [(f"`tile={side}`", need(side)) for side in smaller]
    if optimizer == "lbfgs":
        proposals += [
            (f"`tile={side}` and `memory_folder=DIR`", need(side, 0))
            for side in (*([tile] if tile else []), *smaller)
        ]
    fitting = [f"{options} ({gib(size)})" for options, size in proposals if size <= room]
    advice = f"Use {fitting[0]}" if fitting else "Lower `size`"
    raise DevicesError(
        f"Expected enough memory. Received: {gib(room)}, and about {gib(needed)} are needed for "
        f"{shapes[0][0]} x {shapes[0][1]} pixels. {advice}."
    )


def gib(count: float) -> str:
    """So many bytes in words."""
    return f"{count / 2**30:.1f} GiB"
