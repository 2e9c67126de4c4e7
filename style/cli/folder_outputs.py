"""The pictures of a folder of contents, and the outputs that they become."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import tensorflow as tf

from style.images import reading, writing
from vgg_normalize.errors import Error, ImagesError, OutputError, UsageError
from vgg_normalize.runtime.command import as_flags
from vgg_normalize.runtime.progress import InterruptHandler, Progress, one_line, say
from vgg_normalize.runtime.staging import guard_writes

NO_MEMORY = "Expected enough memory. Received: none left. Use --tile, or lower --size."


class FolderSettings(Protocol):
    """What a command that takes a folder of contents is asked for."""

    @property
    def content(self) -> str | None:
        """Path of the folder."""

    @property
    def output(self) -> str:
        """Path of the folder of outputs."""

    @property
    def bits(self) -> int:
        """Bits per channel of the outputs."""

    @property
    def overwrite(self) -> bool:
        """Whether outputs that exist are made again."""

    @property
    def max_skipped(self) -> int:
        """How many contents may fail."""


class Work(NamedTuple):
    """What is to be made of a folder of contents.

    Attributes:
        pairs: File names of a content and its output, for each picture to make.
        existing: How many outputs exist already.
    """

    pairs: list[tuple[str, str]]
    existing: int


def plan_folder(settings: FolderSettings, read: Mapping[str, Sequence[str]]) -> Work:
    """Plan the work on a folder of contents, in the order of names.

    Args:
        settings: What is asked for.
        read: Flag -> paths of the pictures that are read besides the contents.

    Raises:
        ImagesError: The folder cannot be read, or holds no pictures.
        UsageError: An output would replace a picture that is read.
        OutputError: The folder of outputs cannot be written.
    """
    content, output = Path(settings.content or ""), Path(settings.output)
    names, links = _pictures(content)
    if not names:
        raise ImagesError(
            f"Expected pictures. Received: no images under {str(content)!r}. Check --content."
        )
    targets = _targets(names)
    _require_apart({**read, "content": [content / name for name in links]}, output, set(targets))
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
    inputs: Mapping[str, Sequence[str | Path]], output: Path, targets: set[str]
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


def make_all(
    settings: FolderSettings,
    work: Work,
    make: Callable[[Path, Path], None],
    stop: InterruptHandler,
    *,
    program: str,
) -> None:
    """All pictures of a folder that can be made.

    Args:
        settings: What is asked for.
        work: What is to be made.
        make: Content and output -> None, makes and writes one picture.
        stop: Signals.
        program: What says that a picture was skipped.

    Raises:
        ImagesError: More contents fail than may.
        OutputError: A picture cannot be written.
        Interrupted: A signal came; finished pictures stay.
    """
    if work.existing:
        say(f"{work.existing} in {settings.output} already; --overwrite makes them again")
    content, output = Path(settings.content or ""), Path(settings.output)
    count, skipped = len(work.pairs), 0
    with guard_writes(output):
        output.mkdir(parents=True, exist_ok=True)
    progress = Progress(count + work.existing, done=work.existing, title="pictures")
    with stop.defer():
        for done, (name, target) in enumerate(work.pairs, work.existing + 1):
            reason = _try(make, content / name, output / target)
            if reason:
                skipped += 1
                say(f"{program}: skipped {one_line(name)}: {reason}")
            progress.update(done)
            stop.raise_if_requested()
    progress.close()
    say(f"{count - skipped} in {output}" + (f", {skipped} skipped" if skipped else ""))
    _require_few(skipped, count, settings.max_skipped, work.existing)


def _require_few(skipped: int, count: int, most: int, existing: int) -> None:
    again = "Mend them and run it again, which makes only what is missing"
    if skipped > most:
        raise ImagesError(
            f"Expected at most {most} contents that fail. Received: {skipped} of {count}. {again}, "
            "or allow more with --max_skipped."
        )
    if skipped and skipped == count and not existing:
        raise ImagesError(
            f"Expected at least one content that can be stylised. Received: none of {count}. {again}."
        )


def _try(make: Callable[[Path, Path], None], source: Path, target: Path) -> str:
    """Make one picture; return why it cannot be made where others may, or ""."""
    try:
        make(source, target)
    except OutputError:
        raise
    except Error as error:
        return as_flags(one_line(error))
    except (MemoryError, tf.errors.ResourceExhaustedError):
        return NO_MEMORY
    return ""
