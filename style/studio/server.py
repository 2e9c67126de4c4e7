"""Serving the pages: what is let in, what goes out, and how it ends."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from style import models
from style.studio import examples, networks
from style.studio.settings import LOCAL
from style.studio.take_queue import TakeQueue
from vgg_normalize.errors import UsageError
from vgg_normalize.runtime.progress import say

# Gradio asks at import; nothing is told to anybody.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import gradio as gr
    from fastapi import Request, Response
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
except ImportError as error:
    raise UsageError(
        "Expected the package gradio for the studio. Received: none installed. Use pip install "
        "'vgg-normalize[studio]'."
    ) from error

from style.studio import network_page, theme
from style.studio.apply_page import ApplyPage
from style.studio.make_page import MakePage
from style.studio.uploads import MAX_BYTES, Masks


class Studio:
    """A page that is being served, until `close`.

    Attributes:
        url: Its address.
        queue: Its takes.
    """

    def __init__(self, queue: TakeQueue, page: gr.Blocks, masks: Masks, pictures: Path) -> None:
        self.queue, self._page, self._masks, self._pictures = queue, page, masks, pictures
        self.url = str(page.local_url)

    def close(self) -> None:
        """Stop the take that runs and save its picture; then end the page."""
        self.queue.close()
        if self._page.server:
            self._page.server.force_exit = True  # or it waits for open pages, five seconds
        self._page.close(verbose=False)
        self._masks.close()
        shutil.rmtree(self._pictures, ignore_errors=True)


def launch(
    *,
    model: str = "vgg19",
    takes: str = "takes",
    networks_in: Sequence[str] = (".",),
    host: str = LOCAL,
    port: int | None = None,
    password: str | None = None,
) -> Studio:
    """Open the page, in a notebook below the cell; it is served from a thread of its own.

    Args:
        model: Network that pictures are compared by, as of `style.transfer`.
        takes: Directory for pictures and their settings; it is made if there is none.
        networks_in: Directories in which trained stylisers and normalised networks are looked for.
        host: Address to listen at; 127.0.0.1 is this machine alone.
        port: To listen at; default: the first that is free from 7860 on.
        password: What visitors must enter, with the user name "studio"; None: nothing.

    Raises:
        NetworkError: There is no such network.
        OutputError: The directory cannot be made.
        UsageError: Gradio is not installed, or the port is taken.
    """
    network = models.load(model, say)
    queue = TakeQueue(network, Path(takes).absolute())
    masks = Masks()
    pictures = Path(tempfile.mkdtemp(prefix="style-studio-examples-"))
    page = _build(queue, model, masks, pictures, list(networks_in))
    auth = None if password is None else [("studio", password)]
    try:
        _serve(page, host, port, auth, [str(queue.folder), str(pictures)])
    except OSError as error:
        queue.close()
        raise UsageError(
            f"Expected a free port at {host}. Received: {port or 'none'}, which cannot be had. "
            "Choose another --port or --host."
        ) from error
    return Studio(queue, page, masks, pictures)


def _serve(
    page: gr.Blocks,
    host: str,
    port: int | None,
    auth: list[tuple[str, str]] | None,
    folders: list[str],
) -> None:
    """Serve from a thread; of files, what was uploaded and what is in these folders."""
    page.queue(default_concurrency_limit=4).launch(
        server_name=host,
        server_port=port,
        auth=auth,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=MAX_BYTES,
        allowed_paths=folders,
        theme=theme.theme(),
        css=theme.CSS,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        app_kwargs={"middleware": [Middleware(BaseHTTPMiddleware, dispatch=_respond)]},
    )


def _build(
    queue: TakeQueue, model: str, masks: Masks, pictures: Path, folders: list[str]
) -> gr.Blocks:
    """All pages, of which each is a tab."""
    contents, styles = examples.photographs(pictures), examples.styles(pictures)
    stylizers = networks.of_kind(networks.STYLIZER, folders)
    with gr.Blocks(title=theme.TITLE, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(f"# {theme.TITLE}")
        with gr.Tab("Make"):
            make = MakePage(queue, model, masks, contents, styles)
        with gr.Tab("Apply"):
            ApplyPage(stylizers, contents, styles)
        with gr.Tab("Network"):
            network_page.build(networks.of_kind(networks.NORMALIZED, folders))
        make.watch(page)
    return page


async def _respond(request: Request, respond: Callable[[Request], Awaitable[Any]]) -> Response:
    """Let a browser load nothing from elsewhere, and put our script before those of Gradio."""
    response = await respond(request)
    response.headers["Content-Security-Policy"] = theme.POLICY
    if not response.headers.get("content-type", "").startswith("text/html"):
        return response
    page = b"".join([part async for part in response.body_iterator])
    del response.headers["content-length"]
    page = page.replace(b"<head>", b"<head>" + theme.HEAD.encode(), 1)
    return Response(page, response.status_code, response.headers)
