"""Which networks there are to choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

# What `style.train` and `vgg_normalize` leave in the directories that they save.
STYLIZER, NORMALIZED = "assets/network.json", "saved_model/assets/means.json"


def of_kind(asset: str, folders: Sequence[str]) -> list[str]:
    """Directories of saved networks that have this file, among these and one level below.

    Args:
        asset: `STYLIZER` or `NORMALIZED`.
        folders: Where to look.
    """
    found = {
        str(path): None
        for folder in folders
        for path in _around(Path(folder))
        if (path / asset).is_file()
    }
    return list(found)


def _around(folder: Path) -> Iterator[Path]:
    yield folder
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir())
