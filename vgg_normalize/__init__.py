"""VGG networks normalised to mean activation one, with a proof.

    import vgg_normalize as vn
    model = vn.build("vgg19", weights="imagenet")
    means = vn.channel_means(model, batches)
    normal = vn.normalize(model, means)
    result = vn.check(model, normal, means, batches)
    vn.save(normal, means, "out")

    normal = vn.normalized("vgg19")  # by the means that come with this package

Images are float32, RGB, [B, H, W, 3], in [0, 1], everywhere.  Features are a mapping from layer
name to activation after ReLU, [B, h, w, C].

Reference: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks",
CVPR 2016, section 2.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgg_normalize.chain import features as features
    from vgg_normalize.comparison import compare as compare
    from vgg_normalize.errors import Error as Error
    from vgg_normalize.export import load as load
    from vgg_normalize.export import save as save
    from vgg_normalize.folding import fold_batch_norm as fold_batch_norm
    from vgg_normalize.means import Means as Means
    from vgg_normalize.means import channel_means as channel_means
    from vgg_normalize.proof import Check as Check
    from vgg_normalize.proof import check as check
    from vgg_normalize.shipped import imagenet_means as imagenet_means
    from vgg_normalize.shipped import normalized as normalized
    from vgg_normalize.surgery import normalize as normalize
    from vgg_normalize.surgery import rescale as rescale
    from vgg_normalize.vgg import Preprocessing as Preprocessing
    from vgg_normalize.vgg import build as build

__version__ = "1.1.0"

_HOME = {
    "Check": "proof",
    "Error": "errors",
    "Means": "means",
    "Preprocessing": "vgg",
    "build": "vgg",
    "channel_means": "means",
    "check": "proof",
    "compare": "comparison",
    "features": "chain",
    "fold_batch_norm": "folding",
    "imagenet_means": "shipped",
    "load": "export",
    "normalize": "surgery",
    "normalized": "shipped",
    "rescale": "surgery",
    "save": "export",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Import on first use: `--help` and a wrong flag need not wait for TensorFlow."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """For completion by tab."""
    return sorted([*globals(), *_HOME])
