"""A reader of pages that demands whole ones."""

from __future__ import annotations

import html.parser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(html.parser.HTMLParser):
    """Collects text and attributes, and demands that every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open, self.text, self.found = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
