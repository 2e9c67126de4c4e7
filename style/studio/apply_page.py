"""The page of trained stylisers: a network, a content, styles or their weights, alpha."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr
import numpy as np

import style
from style.cli.settings import parse_weights
from style.studio import examples
from style.studio.page_errors import on_the_page
from style.studio.uploads import picture_upload, pictures_upload, require_allowed
from vgg_normalize.errors import UsageError

SIZE, LARGEST = 512, 2048


def build(networks: list[str], contents: list[str], styles: list[str]) -> None:
    """Make the page, inside `gr.Blocks`.

    Args:
        networks: Directories that `style.train` saved.
        contents, styles: Paths of example pictures.
    """
    load = functools.lru_cache(2)(style.load_stylizer)
    if not networks:
        gr.Markdown(
            "No trained styliser was found: `python -m style.train` makes one, and `--networks` "
            "says where they are."
        )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            network = gr.Dropdown(
                networks,
                label="Styliser",
                value=networks[0] if networks else None,
                elem_id="stylizer",
            )
            content = picture_upload("Content", "apply_content", min_width=150)
            pictures = pictures_upload(
                "Styles, where the network takes pictures", "apply_styles", min_width=150
            )
            examples.buttons(contents, content, "contents")
            examples.buttons(styles, pictures, "styles")
            names = gr.Dropdown(
                [],
                multiselect=True,
                label="Styles, where the network was trained on fixed ones",
                elem_id="apply_names",
            )
            weights = gr.Textbox(label="Weights of the styles", info="One for each, by commas")
            alpha = gr.Slider(0, 1, 1, step=0.05, label="Alpha: 0 is the content, 1 the style")
            size = gr.Number(
                SIZE, label="Long side, pixels", precision=0, minimum=32, maximum=LARGEST
            )
            button = gr.Button("Apply", variant="primary", elem_id="apply")
        with gr.Column(scale=3, min_width=320):
            result = gr.Image(
                label="Result",
                type="numpy",
                format="png",
                interactive=False,
                elem_id="applied",
                buttons=["download", "fullscreen"],
            )

    def known_styles(directory: str | None) -> Any:
        with on_the_page():
            known = load(directory).known_styles if directory else []
        return gr.Dropdown(known, value=known[:1])

    def apply(
        directory: str | None,
        content_path: str | None,
        style_paths: list[str],
        fixed: list[str],
        blend: str,
        alpha_value: float,
        side: float,
    ) -> np.ndarray:
        with on_the_page():
            if directory not in networks:
                raise UsageError("Expected a styliser. Received: none. Choose one.")
            if not content_path:
                raise UsageError("Expected a content picture. Received: none. Choose one.")
            require_allowed([content_path, *style_paths])
            stylizer = load(directory)
            photo = style.load_image(content_path, size=int(side))
            by_name = bool(stylizer.known_styles)
            chosen: Any = (
                fixed if by_name else [style.load_image(p, size=SIZE) for p in style_paths]
            )
            parts = parse_weights("style_blend", [w for w in blend.split(",") if w.strip()])
            image = stylizer(photo, chosen, weights=parts, alpha=1.0 if by_name else alpha_value)
        return np.round(image * 255).astype(np.uint8)

    network.change(known_styles, network, names, api_visibility="private")
    fields = [network, content, pictures, names, weights, alpha, size]
    button.click(apply, fields, result, api_visibility="private")
    alpha.change(
        lambda *values: apply(*values) if values[0] and values[1] else None,
        fields,
        result,
        api_visibility="private",
        trigger_mode="always_last",
        show_progress="hidden",
    )
