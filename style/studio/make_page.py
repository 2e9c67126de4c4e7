"""The page on which pictures are made: what is asked for, the picture as it grows, and the takes."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any

import gradio as gr

from style.cli.settings import Settings, parse_layers, parse_weights, split_list
from style.studio import flag_files, take_view
from style.studio.form import build_form
from style.studio.page_errors import on_the_page
from style.studio.take_queue import TakeQueue
from style.studio.takes import Stage, Take
from style.studio.uploads import Masks, require_allowed
from vgg_normalize.errors import UsageError
from vgg_normalize.networks import chain

# Seconds between two looks at whether something changed, and of a take between two drawings of its curve.
LOOK, DRAW = 0.1, 20.0
# Fields that a visitor can leave empty, which is refused.
NUMBERS = ("size", "steps", "seed", "range_weight")


class MakePage:
    """The page; to be made inside `gr.Blocks`.

    Args:
        queue: Where takes are run.
        model: What `--model` named, for the settings.
        masks: Where what is painted goes.
        contents, styles: Paths of example pictures.
    """

    def __init__(
        self, queue: TakeQueue, model: str, masks: Masks, contents: list[str], styles: list[str]
    ) -> None:
        self.queue, self.model, self.masks = queue, model, masks
        self._viewed: dict[str, Take] = {}  # by session
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                names = [stage.layer.name for stage in chain.stages(queue.model)]
                self.form = build_form(names, contents, styles)
            with gr.Column(scale=3, min_width=320):
                self._build_view()
        self._build_strip()
        self._connect()

    def _build_view(self) -> None:
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", elem_id="start", min_width=80)
            self.stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=80)
            self.go_on = gr.Button("Go on", interactive=False, elem_id="go_on", min_width=80)
        self.panel = gr.HTML(take_view.EMPTY, elem_id="panel")
        with gr.Row():
            self.picture = gr.DownloadButton(
                "Picture", interactive=False, elem_id="get_picture", min_width=120
            )
            self.flags = gr.DownloadButton(
                "Settings (.cfg)", interactive=False, elem_id="get_flags", min_width=120
            )
        self.command = gr.Textbox(
            label="Command line", lines=2, max_lines=4, buttons=["copy"], elem_id="command"
        )
        self.plot = gr.HTML(elem_id="curve")

    def _build_strip(self) -> None:
        self.strip = gr.Gallery(
            label="Takes",
            columns=8,
            fit_columns=False,
            height=180,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            elem_id="strip",
            buttons=[],
        )
        with gr.Accordion("Compare two takes", open=False):
            with gr.Row():
                self.left = gr.Dropdown([], label="Left", min_width=120)
                self.right = gr.Dropdown([], label="Right", min_width=120)
            self.slider = gr.ImageSlider(
                label="Left and right",
                type="filepath",
                interactive=False,
                buttons=[],
                elem_id="compare",
            )

    def _connect(self) -> None:
        fields = self.form.components()
        self.start.click(self._start, fields, None, api_visibility="private")
        self.go_on.click(self._go_on, fields, None, api_visibility="private")
        self.stop.click(self._stop, None, None, api_visibility="private")
        self.strip.select(self._select, None, None, api_visibility="private")
        for side in (self.left, self.right):
            side.change(
                self._compare, [self.left, self.right], self.slider, api_visibility="private"
            )

    def watch(self, page: gr.Blocks) -> None:
        """Show what changes, from when a page is opened to when it is closed."""
        offers = [
            *(self.stop, self.go_on, self.picture, self.flags, self.command, self.strip),
            *(self.left, self.right),
        ]
        # Each apart: Gradio makes all outputs of an event anew, even those that it skips.
        for show, outputs in (
            (self._show_picture, [self.panel]),
            (self._show_curve, [self.plot]),
            (self._show_offers, offers),
        ):
            page.load(
                show,
                None,
                outputs,
                show_progress="hidden",
                concurrency_limit=None,
                api_visibility="private",
            )
        page.unload(self._leave)

    def _start(self, values: dict[Any, Any], request: gr.Request) -> None:
        with on_the_page():
            self._view(request, self.queue.start(self._asked(values, None)))

    def _go_on(self, values: dict[Any, Any], request: gr.Request) -> None:
        """The next step of the same settings, or with others from the picture of the take."""
        take = self._viewed.get(_session(request))
        if take is None:
            return
        with on_the_page():
            asked = self._asked(values, take)
            if take.can_go_on and asked == take.asked:
                self.queue.go_on(take)
            else:
                begin = str(take.picture)
                self._view(request, self.queue.start(dataclasses.replace(asked, init=begin)))

    def _stop(self, request: gr.Request) -> None:
        take = self._viewed.get(_session(request))
        if take is not None:
            self.queue.stop(take)

    def _select(self, event: gr.SelectData, request: gr.Request) -> None:
        self._view(request, self.queue.takes[event.index])

    def _view(self, request: gr.Request, take: Take) -> None:
        self._viewed[_session(request)] = take

    def _leave(self, request: gr.Request) -> None:
        self._viewed.pop(_session(request), None)

    def _asked(self, values: dict[Any, Any], take: Take | None) -> Settings:
        """The settings of the form; where it has no pictures, those of a take."""
        chosen = self.form.read(values)
        for name in NUMBERS:
            if chosen[name] is None:
                raise UsageError(f"Expected a number as {name}. Received: none. Fill it in.")
        content, styles = chosen["content"], tuple(chosen["styles"] or ())
        if take is not None:
            content, styles = content or take.asked.content, styles or take.asked.style
        require_allowed([*filter(None, [content]), *styles])
        task = chosen["task"]
        begin = None if take is None else take.asked.init
        return Settings(
            output="",
            model=self.model,
            task=task,
            content=None if task == "texture" else content,
            style=() if task == "inversion" else styles,
            content_mask=()
            if task in ("texture", "inversion")
            else self.masks.of_painting(chosen["painting"], len(styles)),
            style_blend=parse_weights("style_blend", split_list(chosen["blend"])),
            content_layers=parse_layers("content_layers", split_list(chosen["content_layer"])),
            style_layers=parse_layers("style_layers", chosen["style_layers"] or []),
            init=begin,
            style_loss=chosen["style_loss"] or Settings.style_loss,
            **{name: chosen[name] for name in (*NUMBERS, "strength", "preserve_color")},
        )

    def _compare(self, left: str | None, right: str | None) -> tuple[str, str] | None:
        files = {take.title: str(take.picture) for take in self._pictures()}
        return (files[left], files[right]) if left in files and right in files else None

    def _pictures(self) -> list[Take]:
        return [take for take in self.queue.takes if take.picture.is_file()]

    async def _show_picture(self, request: gr.Request) -> AsyncIterator[str]:
        async for take in self._changes(request, lambda take: self.queue.version):
            yield await asyncio.to_thread(take_view.panel, self.queue, take)

    async def _show_curve(self, request: gr.Request) -> AsyncIterator[str]:
        async for take in self._changes(
            request, lambda take: take and (take.stage, take.seconds // DRAW)
        ):
            yield await asyncio.to_thread(take_view.curve, take)

    async def _show_offers(self, request: gr.Request) -> AsyncIterator[list[Any]]:
        async for take in self._changes(
            request, lambda take: [(each.number, each.stage) for each in self.queue.takes]
        ):
            yield self._offers(take)

    async def _changes(
        self, request: gr.Request, state: Callable[[Take | None], Any]
    ) -> AsyncIterator[Take | None]:
        """The take that is looked at, whenever it is another or its state is."""
        seen: Any = ()
        while True:
            take = self._viewed.get(_session(request))
            now = take and take.number, state(take)
            if now != seen:
                seen = now
                yield take
            await asyncio.sleep(LOOK)

    def _offers(self, take: Take | None) -> list[Any]:
        """Which buttons work, what can be fetched, and the strip."""
        stage = take and take.stage
        still = take is not None and take.picture.is_file() and stage is not Stage.RUNNING
        titles = [saved.title for saved in self._pictures()]
        return [
            gr.Button(interactive=stage in (Stage.RUNNING, Stage.WAITING)),
            gr.Button(interactive=still and stage is not Stage.WAITING),
            gr.DownloadButton(
                value=str(take.picture) if take and still else None, interactive=still
            ),
            gr.DownloadButton(value=str(take.flagfile) if take else None, interactive=bool(take)),
            flag_files.command_line(take.settings) if take else "",
            take_view.strip(self.queue),
            gr.Dropdown(titles),
            gr.Dropdown(titles),
        ]


def _session(request: gr.Request) -> str:
    return str(request.session_hash)
