"""The channel means of a network, with their standard errors, and their file `means.npz`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vgg_normalize.errors import NetworkError

# A filter whose mean is below this share of its layer's average counts as firing rarely.
RARE = 1e-3


@dataclass(frozen=True)
class Means:
    """Channel means of the rectified layers of a network.

    Attributes:
        mean: Layer name to means, float64 [C].
        standard_error: Layer name to their standard errors, float64 [C]; infinite for one image.
        positions: Layer name to the number of positions in all images together.
        images: Number of images.
        settings: How they were measured, as far as it is known: "architecture", "pooling",
            "preprocessing", "resize", "image_size", "biases" (see `loading.bias_digests`) ...
    """

    mean: Mapping[str, np.ndarray]
    standard_error: Mapping[str, np.ndarray]
    positions: Mapping[str, int]
    images: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def scales(self, layer: str) -> np.ndarray:
        """What the filters are divided by: their means, or 1 where a filter is dead."""
        mean = self.mean[layer]
        return np.where(mean == 0, 1.0, mean)

    def dead(self, layer: str) -> np.ndarray:
        """Indices of the filters that never fired."""
        return np.flatnonzero(self.mean[layer] == 0)

    def rarely_firing(self, layer: str) -> int:
        """The number of living filters whose mean is below 0.001 of their layer's average."""
        mean = self.mean[layer]
        return int(((mean > 0) & (mean < RARE * mean.mean())).sum())

    def relative_errors(self) -> np.ndarray:
        """Standard error over mean of every living filter, all layers in one array."""
        errors = [
            self.standard_error[layer][mean > 0] / mean[mean > 0]
            for layer, mean in self.mean.items()
        ]
        return np.concatenate(errors) if errors else np.empty(0)

    def of_layers(self, names: Iterable[str]) -> Means:
        """The means of the named layers, in the order of the names; unknown names are ignored."""
        layers = [name for name in names if name in self.mean]
        return replace(
            self,
            mean={name: self.mean[name] for name in layers},
            standard_error={name: self.standard_error[name] for name in layers},
            positions={name: self.positions[name] for name in layers},
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `<layer>/mean`, `<layer>/standard_error`, `<layer>/positions`, `images`, and
        `settings` as JSON."""
        arrays: dict[str, Any] = {"images": np.int64(self.images)}
        if self.settings:
            arrays["settings"] = np.array(json.dumps(dict(self.settings)))
        for layer in self.mean:
            arrays[f"{layer}/mean"] = self.mean[layer]
            arrays[f"{layer}/standard_error"] = self.standard_error[layer]
            arrays[f"{layer}/positions"] = np.int64(self.positions[layer])
        with Path(path).open("wb") as file:
            np.savez(file, **arrays)

    def _require_valid(self) -> None:
        """Raises ValueError if an array has the wrong shape or the settings are no mapping."""
        for name, mean in self.mean.items():
            if mean.ndim != 1 or self.standard_error[name].shape != mean.shape:
                raise ValueError(f"{name} with shapes {mean.shape} and not one error for each")
        if not self.mean or not isinstance(self.settings, dict):
            raise ValueError("no means of layers, or settings that are no mapping")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Means:
        """Read what `save` wrote.

        Raises:
            NetworkError: The file is missing, damaged, or not a file of means.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                names = [key[: -len("/mean")] for key in file.files if key.endswith("/mean")]
                means = cls(
                    {name: file[f"{name}/mean"].astype(np.float64) for name in names},
                    {name: file[f"{name}/standard_error"].astype(np.float64) for name in names},
                    {name: int(file[f"{name}/positions"]) for name in names},
                    int(file["images"]),
                    json.loads(str(file["settings"])) if "settings" in file.files else {},
                )
            means._require_valid()
            return means
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
            raise NetworkError(
                f"Expected a means.npz. Received: {path}, which cannot be read "
                f"({' '.join(str(error).split())[:200]}). Measure again, or check `means`."
            ) from error
