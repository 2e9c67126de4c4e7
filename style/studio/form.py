"""The form: everything that a take can be asked for."""

from __future__ import annotations

from typing import Any

import gradio as gr

from style.studio import examples
from style.studio.uploads import COLORS, picture_upload, pictures_upload, require_allowed
from style.synthesis.options import CHOICES, RANGE_WEIGHT, TASKS
from style.synthesis.strength import DEFAULT, FACTORS
from vgg_normalize.errors import ImagesError

# The sizes that a page offers; larger pictures are the command's.
SMALLEST, LARGEST = 64, 2048


class Form:
    """Fields by name.

    Args:
        fields: Name to component.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields

    def components(self) -> set[Any]:
        """The components, as the inputs of a listener."""
        return set(self._fields.values())

    def read(self, values: dict[Any, Any]) -> dict[str, Any]:
        """What a listener got, by name."""
        return {name: values[field] for name, field in self._fields.items()}


def build_form(layers: list[str], contents: list[str], styles: list[str]) -> Form:
    """Make the fields, inside a column.

    Args:
        layers: Names of the network's layers.
        contents: Paths of example contents.
        styles: Paths of example styles.
    """
    fields: dict[str, Any] = {}
    fields["task"] = gr.Radio(list(TASKS), value="transfer", label="What to make", elem_id="task")
    with gr.Row():
        fields["content"] = picture_upload("Content", "content", min_width=150)
        fields["styles"] = pictures_upload("Styles", "styles", min_width=150)
    examples.buttons(contents, fields["content"], "contents")
    examples.buttons(styles, fields["styles"], "styles")
    fields |= _numbers()
    with gr.Accordion("Losses, layers and colours", open=False):
        fields |= _losses(layers)
    with gr.Accordion("Paint where each style goes", open=False):
        fields["painting"] = _painting(fields["content"])
    return Form(fields)


def _numbers() -> dict[str, Any]:
    """How much style, how large, how long, and the seed."""
    fields: dict[str, Any] = {}
    fields["strength"] = gr.Slider(
        0.01, 0.99, DEFAULT, step=0.01, label="Strength of the style", elem_id="strength"
    )
    with gr.Row():
        fields["size"] = gr.Number(
            384,
            label="Long side, pixels",
            precision=0,
            minimum=SMALLEST,
            maximum=LARGEST,
            elem_id="size",
            min_width=120,
        )
        fields["steps"] = gr.Number(
            200, label="Evaluations", precision=0, minimum=1, elem_id="steps", min_width=120
        )
        fields["seed"] = gr.Number(
            0, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=80
        )
    return fields


def _losses(layers: list[str]) -> dict[str, Any]:
    """How pictures are compared."""
    fields: dict[str, Any] = {}
    fields["style_loss"] = gr.Dropdown(
        list(FACTORS),
        value="gram",
        label="Style loss",
        allow_custom_value=True,
        info="Or a sum with weights: gram:1,moments:0.1",
    )
    fields["style_layers"] = gr.Dropdown(
        layers,
        multiselect=True,
        label="Style layers",
        allow_custom_value=True,
        info="LAYER or LAYER:WEIGHT; none: blockK_conv1 for K = 1 to 5",
    )
    fields["content_layer"] = gr.Dropdown(
        ["", *layers],
        value="",
        label="Content layer",
        allow_custom_value=True,
        info="Of an inversion, the layer that is shown; none: block4_conv2",
    )
    fields["preserve_color"] = gr.Radio(
        list(CHOICES["preserve_color"]), value="none", label="Keep the content's colours"
    )
    fields["range_weight"] = gr.Number(
        RANGE_WEIGHT,
        label="Weight of the range",
        info="How much it counts when pixels leave 0 to 1, to which pictures are clipped",
        minimum=0,
        elem_id="range_weight",
    )
    fields["blend"] = gr.Textbox(
        label="Weights of the styles", info="One for each, by commas; empty: equal"
    )
    return fields


def _painting(content: gr.Image) -> gr.ImageEditor:
    """An editor that shows the content, to paint on."""
    editor = gr.ImageEditor(
        label=f"Painted on the content: {', '.join(COLORS)} for styles 1 to {len(COLORS)}",
        type="numpy",
        sources=(),
        transforms=(),
        layers=False,
        buttons=[],
        brush=gr.Brush(default_size="auto", colors=list(COLORS.values()), color_mode="fixed"),
        elem_id="painting",
    )
    content.change(
        _to_paint_on,
        content,
        editor,
        api_visibility="private",
        show_progress="hidden",
    )
    return editor


def _to_paint_on(path: str | None) -> str | None:
    """The content for the editor; what is no picture is told of when a take is started."""
    try:
        require_allowed([path] if path else [])
    except ImagesError:
        return None
    return path
