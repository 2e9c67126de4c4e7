"""The page of trained stylisers: a network, a content, styles or their weights, alpha."""

from __future__ import annotations

import functools
from typing import Any

import gradio as gr
import numpy as np

import style
from style.cli.settings import parse_weights, split_list
from style.feedforward.stylizer import Stylizer
from style.studio import examples
from style.studio.page_errors import on_the_page
from style.studio.uploads import picture_upload, pictures_upload, require_allowed
from vgg_normalize.errors import UsageError

# Pixels a side: of the result at first and at most, and of a style.
SIZE, LARGEST, STYLE_SIZE = 512, 2048, 512


class ApplyPage:
    """The page; to be made inside `gr.Blocks`.

    Args:
        networks: Directories that `style.train` saved.
        contents, styles: Paths of example pictures.
    """

    def __init__(self, networks: list[str], contents: list[str], styles: list[str]) -> None:
        self._networks = networks
        self._load = functools.lru_cache(2)(style.load_stylizer)
        if not networks:
            gr.Markdown(
                "No trained styliser was found: `python -m style.train` makes one, and "
                "`--networks` says where they are."
            )
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self._build_fields(contents, styles)
            with gr.Column(scale=3, min_width=320):
                self.result = gr.Image(
                    label="Result",
                    type="numpy",
                    format="png",
                    interactive=False,
                    elem_id="applied",
                    buttons=["download", "fullscreen"],
                )
        self._connect()

    def _build_fields(self, contents: list[str], styles: list[str]) -> None:
        first = self._networks[0] if self._networks else None
        self.network = gr.Dropdown(
            self._networks, label="Styliser", value=first, elem_id="stylizer"
        )
        self.content = picture_upload("Content", "apply_content", min_width=150)
        examples.buttons(contents, self.content, "contents")
        self.pictures = pictures_upload(
            "Styles, where the network takes pictures", "apply_styles", min_width=150
        )
        examples.buttons(styles, self.pictures, "styles")
        self.names = gr.Dropdown(
            self._known_styles(first),
            multiselect=True,
            label="Styles, where the network was trained on fixed ones",
            elem_id="apply_names",
        )
        self.weights = gr.Textbox(label="Weights of the styles", info="One for each, by commas")
        self.alpha = gr.Slider(0, 1, 1, step=0.05, label="Alpha: 0 is the content, 1 the style")
        self.size = gr.Number(
            SIZE, label="Long side, pixels", precision=0, minimum=32, maximum=LARGEST
        )
        self.button = gr.Button("Apply", variant="primary", elem_id="apply")

    def _connect(self) -> None:
        fields = {self.network, self.content, self.pictures, self.names, self.weights}
        fields |= {self.alpha, self.size}
        self.network.change(
            lambda directory: gr.Dropdown(self._known_styles(directory), value=[]),
            self.network,
            self.names,
            api_visibility="private",
        )
        self.button.click(self._apply, fields, self.result, api_visibility="private")
        self.alpha.change(
            lambda values: self._apply(values) if values[self.content] else None,
            fields,
            self.result,
            api_visibility="private",
            trigger_mode="always_last",
            show_progress="hidden",
        )

    def _stylizer(self, directory: str | None) -> Stylizer:
        if directory not in self._networks:
            raise UsageError("Expected a styliser. Received: none. Choose one.")
        return self._load(directory)

    def _known_styles(self, directory: str | None) -> list[str]:
        with on_the_page():
            return self._stylizer(directory).known_styles if directory else []

    def _apply(self, values: dict[Any, Any]) -> np.ndarray:
        """The content in the styles, uint8, [H, W, 3]."""
        content, pictures = values[self.content], values[self.pictures]
        with on_the_page():
            stylizer = self._stylizer(values[self.network])
            if not content:
                raise UsageError("Expected a content picture. Received: none. Choose one.")
            require_allowed([content, *pictures])
            chosen: Any = values[self.names]
            alpha = 1.0
            if not stylizer.known_styles:
                chosen = [style.load_image(path, size=STYLE_SIZE) for path in pictures]
                alpha = values[self.alpha]
            image = stylizer(
                style.load_image(content, size=int(values[self.size])),
                chosen,
                weights=parse_weights("style_blend", split_list(values[self.weights])),
                alpha=alpha,
            )
        return np.round(image * 255).astype(np.uint8)
