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

from typing import TYPE_CHECKING

from vgg_normalize.runtime.lazy import exports

if TYPE_CHECKING:
    from vgg_normalize.channel_sums import channel_means as channel_means
    from vgg_normalize.comparison import compare as compare
    from vgg_normalize.errors import Error as Error
    from vgg_normalize.means import Means as Means
    from vgg_normalize.networks.batch_norm import fold_batch_norm as fold_batch_norm
    from vgg_normalize.networks.chain import features as features
    from vgg_normalize.networks.preprocessing import Preprocessing as Preprocessing
    from vgg_normalize.rescaling import normalize as normalize
    from vgg_normalize.rescaling import rescale as rescale
    from vgg_normalize.saved_network import load as load
    from vgg_normalize.saved_network import save as save
    from vgg_normalize.shipped_means import imagenet_means as imagenet_means
    from vgg_normalize.shipped_means import normalized as normalized
    from vgg_normalize.verification import Check as Check
    from vgg_normalize.verification import check as check
    from vgg_normalize.vgg import build as build

__version__ = "1.1.0"

_HOME = {
    "Check": "verification",
    "Error": "errors",
    "Means": "means",
    "Preprocessing": "networks.preprocessing",
    "build": "vgg",
    "channel_means": "channel_sums",
    "check": "verification",
    "compare": "comparison",
    "features": "networks.chain",
    "fold_batch_norm": "networks.batch_norm",
    "imagenet_means": "shipped_means",
    "load": "saved_network",
    "normalize": "rescaling",
    "normalized": "shipped_means",
    "rescale": "rescaling",
    "save": "saved_network",
}

__all__ = sorted(_HOME)  # noqa: PLE0605
__getattr__, __dir__ = exports(__name__, _HOME)
