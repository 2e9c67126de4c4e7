"""The pictures of a folder of contents, and the outputs that they become."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from style.cli.settings import ApplySettings
from style.images import reading, writing
from vgg_normalize.errors import ImagesError, OutputError, UsageError
from vgg_normalize.runtime.staging import guard_writes


class Work(NamedTuple):
    """What is to be made of a folder of contents.

    Attributes:
        pairs: File names of a content and its output, for each picture to make.
        existing: How many outputs exist already.
    """

    pairs: list[tuple[str, str]]
    existing: int


def of_folder(settings: ApplySettings) -> Work:
    """Plan the work on a folder of contents, in the order of names.

    Raises:
        ImagesError: The folder cannot be read, or holds no pictures.
        UsageError: An output would replace a picture that is read.
        OutputError: The folder of outputs cannot be written.
    """
    content, output = Path(settings.content), Path(settings.output)
    names, links = _pictures(content)
    if not names:
        raise ImagesError(
            f"Expected pictures. Received: no images under {str(content)!r}. Check --content."
        )
    targets = _targets(names)
    inputs: dict[str, Iterable[str | Path]] = {"content": [content / name for name in links]}
    inputs |= {"style": settings.style, "content_mask": settings.content_mask}
    _require_apart(inputs, output, set(targets))
    _require_folder(output, settings.bits)
    existing = set() if settings.overwrite else _existing(output, set(targets))
    pairs = [pair for pair in zip(names, targets, strict=True) if pair[1] not in existing]
    return Work(pairs, len(existing))


def _pictures(folder: Path) -> tuple[list[str], list[str]]:
    """The names of pictures, sorted, and those of them that are links.

    What begins with a dot is hidden, or half a picture that somebody is writing.  A folder or a pipe
    named like a picture is taken too, so that reading it says what it is.
    """
    names, links = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name[0] != "." and os.path.splitext(name)[1].lower() in reading.READ_SUFFIXES:
                    names.append(name)
                    links += [name] if entry.is_symlink() else []
    except OSError as error:
        raise ImagesError(
            f"Expected a folder that can be read. Received: {str(folder)!r} ({error.strerror}). "
            "Check --content."
        ) from error
    return sorted(names), links


def _targets(names: Sequence[str]) -> list[str]:
    """Names of outputs: photo.png for photo.jpg, or photo.jpg.png where two would be alike.

    Names that differ only in case count as alike: a file system may ignore case.
    """
    whole: set[str] = set()
    while True:
        targets = [f"{n if n in whole else os.path.splitext(n)[0]}.png" for n in names]
        count = Counter(target.casefold() for target in targets)
        pairs = zip(names, targets, strict=True)
        clashing = {name for name, target in pairs if count[target.casefold()] > 1} - whole
        if not clashing:
            return targets
        whole |= clashing


def _require_apart(
    inputs: Mapping[str, Iterable[str | Path]], output: Path, targets: set[str]
) -> None:
    """Check that no input is one of the outputs in a folder."""
    folder = os.path.realpath(output)
    for flag, paths in inputs.items():
        for real in map(os.path.realpath, paths):
            where, name = os.path.split(real)
            if where == folder and name in targets and os.path.exists(real):
                raise UsageError(
                    "Expected every output at a place of its own. Received: one of --output and "
                    f"one of --{flag} are both {real}. Choose another --output."
                )


def _require_folder(output: Path, bits: int) -> None:
    """Check that a folder of outputs exists or can be made."""
    if not output.is_dir() and output.suffix.lower() in reading.READ_SUFFIXES:
        raise UsageError(
            f"Expected a directory as --output for a folder of contents. Received: {output}, "
            "which is named like a picture. Choose another --output."
        )
    nearest = next(path for path in (output, *output.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputError(
            f"Expected a directory that can be written as --output. Received: {output}, where "
            f"{nearest} is none. Choose another --output."
        )
    writing.require_writable_bits(nearest / f"{os.getpid()}.png", bits)


def _existing(output: Path, targets: set[str]) -> set[str]:
    """The outputs that exist."""
    if not output.is_dir():
        return set()
    with guard_writes(output), os.scandir(output) as entries:
        outputs = [entry for entry in entries if entry.name in targets]
        folder = next((entry for entry in outputs if entry.is_dir()), None)
        if folder is not None:
            raise OutputError(
                "Expected pictures or nothing in the places of the outputs. Received: "
                f"{folder.path}, a directory. Move it away or choose another --output."
            )
        return {entry.name for entry in outputs if entry.is_file()}
