"""A page in the browser on which pictures are made, watched and steered.

    import style.studio

    studio = style.studio.launch()  # in a notebook too; `python -m style.studio` is the command
    studio.close()

Needs the extra [studio] (gradio).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vgg_normalize.runtime.lazy import exports

if TYPE_CHECKING:
    from style.studio.server import Studio as Studio
    from style.studio.server import launch as launch

_HOME = {"Studio": "server", "launch": "server"}

__all__ = sorted(_HOME)  # noqa: PLE0605
__getattr__, __dir__ = exports(__name__, _HOME)
