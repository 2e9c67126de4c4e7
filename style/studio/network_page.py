"""The page of normalised networks: the report of one, and two compared up to scales."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

import vgg_normalize as vn
from style.studio.page_errors import on_the_page
from vgg_normalize import comparison
from vgg_normalize.errors import UsageError
from vgg_normalize.report import comparison_html, json_report

REPORT = "report.html"


def build(networks: list[str]) -> None:
    """Make the page, inside `gr.Blocks`.

    Args:
        networks: Directories that `vgg_normalize` saved.
    """
    if not networks:
        gr.Markdown(
            "No normalised network was found: `python -m vgg_normalize` makes one, and `--networks` "
            "says where they are."
        )
    with gr.Row():
        network = gr.Dropdown(
            networks, label="Network", value=networks[0] if networks else None, elem_id="network"
        )
        other = gr.Dropdown(["", *networks], value="", label="Compare with", elem_id="other")
    page = gr.HTML(report(networks[0]) if networks else "", elem_id="report")

    def show(directory: str | None, reference: str | None) -> str:
        with on_the_page():
            known = {*networks, "", None}
            if directory not in known or reference not in known:
                raise UsageError("Expected a network of the list. Received: another. Choose one.")
            if not directory:
                return ""
            return compare(directory, reference) if reference else report(directory)

    for choice in (network, other):
        choice.change(show, [network, other], page, api_visibility="private")


def report(directory: str) -> str:
    """The report that was written with a network, in a frame of its own."""
    path = Path(directory) / REPORT
    if not path.is_file():
        return f"<p>{html.escape(directory)} has no {REPORT}.</p>"
    return _frame(path.read_text(encoding="utf-8"), f"Report of {directory}")


def compare(directory: str, reference: str) -> str:
    """Two networks compared, in a frame of its own.

    Raises:
        NetworkError: One cannot be read, or they are not of the same architecture.
    """
    result = comparison.compare(vn.load(directory), vn.load(reference))
    content = {
        "weights": {"source": directory},
        "reference": {"source": reference},
        "settings": {"weights": directory, "reference": reference},
        "versions": json_report.versions(),
    }
    return _frame(comparison_html.render(content, result), f"{directory} and {reference}")


def _frame(document: str, title: str) -> str:
    return (
        f'<iframe sandbox title="{html.escape(title)}" srcdoc="{html.escape(document)}" '
        'style="width: 100%; height: 75vh; border: 0; background: #fff"></iframe>'
    )
