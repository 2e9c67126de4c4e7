"""Image style on normalised features: transfer, texture, inversion, feed-forward stylisers.

    import style, vgg_normalize as vn

    vgg = vn.normalized("vgg19")  # or vn.load("out/vgg19"), what vgg_normalize saved
    photo, painting = style.load_image("a.jpg", size=512), style.load_image("b.jpg")
    result = style.transfer(vgg, photo, painting, steps=300)
    style.save_image("out.png", result.image)

    for result in style.iter_transfer(vgg, photo, painting):  # to watch, or to stop
        print(result.evaluations, result.loss)

    stylize = style.load_stylizer("out/adain")  # what style.train saved
    style.save_image("fast.png", stylize(photo, painting, alpha=0.8))

Images are float32, RGB, [H, W, 3], in [0, 1], everywhere.  Nothing here needs flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vgg_normalize.runtime.lazy import exports

if TYPE_CHECKING:
    from style.feedforward.stylizer import load_stylizer as load_stylizer
    from style.images.files import load_image as load_image
    from style.images.files import save_image as save_image
    from style.synthesis.descent import Status as Status
    from style.synthesis.options import Options as Options
    from style.synthesis.picture_terms import Style as Style
    from style.synthesis.tasks import Result as Result
    from style.synthesis.tasks import invert as invert
    from style.synthesis.tasks import iter_invert as iter_invert
    from style.synthesis.tasks import iter_texture as iter_texture
    from style.synthesis.tasks import iter_transfer as iter_transfer
    from style.synthesis.tasks import texture as texture
    from style.synthesis.tasks import transfer as transfer

_HOME = {
    "Options": "synthesis.options",
    "Result": "synthesis.tasks",
    "Status": "synthesis.descent",
    "Style": "synthesis.picture_terms",
    "invert": "synthesis.tasks",
    "iter_invert": "synthesis.tasks",
    "iter_texture": "synthesis.tasks",
    "iter_transfer": "synthesis.tasks",
    "load_image": "images.files",
    "load_stylizer": "feedforward.stylizer",
    "save_image": "images.files",
    "texture": "synthesis.tasks",
    "transfer": "synthesis.tasks",
}

__all__ = sorted(_HOME)  # noqa: PLE0605
__getattr__, __dir__ = exports(__name__, _HOME)
