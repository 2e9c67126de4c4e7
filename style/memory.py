"""How much memory a run will need, and how much there is: known before minutes of work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from style import tiles
from vgg_normalize import chain
from vgg_normalize.errors import DevicesError

# What an evaluation works on besides the features that it keeps for the backward pass, in sizes of
# the largest layer: gradients, windows of convolutions, oneDNN's copies (more of them on processors
# without AVX-512), what the allocator keeps.
WORKING = 10
# Sizes of the weights that the kernels take which `convolution.winograd` makes ready.
WEIGHTS = 4
# Pictures besides the pairs: where the run is, where it tries, directions, gradients, spectra, and
# the content; of Adam moments instead.
PICTURES = {"lbfgs": 24, "adam": 14}
# Graphs and their executors.
GRAPHS = 0.2 * 2**30
# Tiles that are proposed, the best first.
TILES = (1024, 512, 256, 128)


def estimate(
    model: keras.Model,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    optimizer: str = "lbfgs",
    pairs: int = 30,
    tile: int = 0,
) -> int:
    """Bytes that optimising a picture takes beyond what the process has, about.

    Args:
        model: A chain of layers.
        names: Layers that the objective looks at.
        shapes: Height and width of the result, and of the styles.
        optimizer: "lbfgs" or "adam".
        pairs: That L-BFGS keeps in memory.
        tile: Pixels a side of tiles; 0: none.
    """
    largest = max(_features(model, names, shape, tile) for shape in shapes)
    weights = sum(int(np.prod(weight.shape)) for weight in model.weights) * 4
    copies = PICTURES[optimizer] + (2 * pairs if optimizer == "lbfgs" else 0)
    picture = 12 * shapes[0][0] * shapes[0][1]
    return int(largest + copies * picture + WEIGHTS * weights + GRAPHS)


def _features(model: keras.Model, names: Sequence[str], shape: tuple[int, int], tile: int) -> int:
    """Bytes for the largest window: all activations as far as the deepest layer, and the work."""
    windows = tiles.cut(model, names, shape, tile).windows
    height, width = (int(side) for side in windows[:, 2:].max(0))
    tensor: Any = keras.KerasTensor((1, height, width, 3))
    sizes = []
    wanted = sorted(set(names) - {tiles.IMAGE})
    if not wanted:
        return 0
    for layer in chain.as_far_as(model, chain.activations(model, wanted).values()):
        tensor = layer.compute_output_spec(tensor)
        sizes.append(4 * int(np.prod(tensor.shape)))
    # By tiles the content's features are computed again each time.
    return (1 if len(windows) == 1 else 2) * sum(sizes) + WORKING * max(sizes)


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


def require(
    model: keras.Model,
    names: Sequence[str],
    shapes: Sequence[tuple[int, int]],
    *,
    optimizer: str,
    pairs: int,
    tile: int,
) -> None:
    """See that a run fits.

    Raises:
        DevicesError: It does not; the message says how much it needs, how much there is, and which
            tile fits.
    """
    room = available()
    if room is None:
        return

    def need(tile: int, pairs: int = pairs) -> int:
        return estimate(model, names, shapes, optimizer=optimizer, pairs=pairs, tile=tile)

    needed = need(tile)
    if needed <= room:
        return
    smaller = [one for one in TILES if not tile or one < tile]
    proposals = [(f"--tile={one}", need(one)) for one in smaller]
    if optimizer == "lbfgs":
        proposals += [
            (f"--tile={one} and --memory_folder=DIR", need(one, 0))
            for one in (*([tile] if tile else []), *smaller)
        ]
    fitting = [f"{what} ({_gib(bytes)})" for what, bytes in proposals if bytes <= room]
    advice = f"Use {fitting[0]}" if fitting else "Lower --size"
    raise DevicesError(
        f"Expected enough memory. Received: {_gib(room)}, and about {_gib(needed)} are needed for "
        f"{shapes[0][0]} x {shapes[0][1]} pixels. {advice}."
    )


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
