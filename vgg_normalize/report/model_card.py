"""What all model cards share: a README.md with a YAML head, as hubs of models show it.

The form is that of https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "README.md"


def write(folder: Path, head: Mapping[str, Any], title: str, sections: Mapping[str, str]) -> None:
    """Write the card.

    Args:
        folder: Directory to write to.
        head: Keys of the YAML head: texts, or lists of texts.
        title: Title of the page.
        sections: Heading to Markdown, in order; the first heading may be empty, and sections without
            text are left out.
    """
    parts = [f"# {title}"]
    for heading, text in sections.items():
        if text:
            parts.append(f"## {heading}\n\n{text}" if heading else text)
    text = f"---\n{_yaml(head)}---\n\n" + "\n\n".join(parts) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def _yaml(head: Mapping[str, Any]) -> str:
    # JSON's texts and lists are YAML's, quoted: a name such as `no` or `1.0` stays a text.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items())


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table, whose cells may hold any characters."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(escaped(cell) for cell in line) + " |" for line in lines)


def escaped(cell: Any) -> str:
    """Anything as Markdown text of one line that shows it as it is."""
    text = " ".join(str(cell).split())
    for character in "\\|<*[`":
        text = text.replace(character, "\\" + character)
    return text


def file_table(formats: Sequence[Mapping[str, Any]]) -> str:
    """The saved files, from `formats` of `report.json`."""
    rows = [
        (entry["file"], entry["name"], f"{entry['bytes'] / 2**20:.1f} MiB", _difference(entry))
        for entry in formats
    ]
    return table(("file", "format", "size", "worst difference"), rows) if rows else ""


def _difference(entry: Mapping[str, Any]) -> str:
    worst = entry["worst_difference"]
    return f"{worst:.1e}" if worst else "none, bit for bit"
