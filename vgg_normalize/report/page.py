"""What all pages of reports share: one file that loads nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

STYLE = """
body { font: 16px/1.5 Georgia, "Times New Roman", serif; color: #1c1c1c; background: #fff;
  max-width: 54rem; margin: 2.5rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; font-weight: normal; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; border-bottom: 1px solid #ccc; }
p.lead { color: #555; margin-top: 0; } img { width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { padding: .2rem .55rem; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
thead th { border-top: 2px solid #333; border-bottom: 1px solid #333; font-weight: normal; }
tbody tr:last-child td { border-bottom: 2px solid #333; }
.verdict { border-left: 4px solid #2e7d4f; background: #f1f7f3; padding: .6rem 1rem; }
.failed { border-color: #b3361e; background: #fbf1ef; }
pre { background: #f5f5f2; padding: .8rem 1rem; overflow-x: auto; font-size: .82rem; }
td.text { text-align: left; } code { font-size: .9em; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document.

    Args:
        title: Title of the window, as HTML.
        body: Elements of the page, as HTML.
    """
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def verdict_box(passed: bool, content: str, element: str = "p") -> str:
    """The verdict in a coloured box.

    Args:
        passed: Whether the box is green; else it is red.
        content: What is in it, as HTML.
        element: Name of the element: "p" for a sentence, "div" for more.
    """
    return f'<{element} class="verdict{"" if passed else " failed"}">{content}</{element}>'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], text: bool = False) -> str:
    """A <table> element.

    Args:
        header: Titles of the columns.
        rows: Cells of each row; they are escaped.
        text: Whether to align the cells left, as text, instead of right, as numbers.
    """
    style = ' class="text"' if text else ""
    head = "".join(f"<th{style}>{html.escape(str(cell))}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td{style}>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
