"""Writing a directory all or nothing: made beside, renamed when whole, locked meanwhile.

Beside DIR stands `DIR.partial` while a run is at work: its lock, its checkpoint, `new` (what will
become DIR) and, for an instant while a finished DIR is replaced, `old`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vgg_normalize import checkpoint
from vgg_normalize.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows: no locks, everything else holds
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


class Workplace:
    """A directory in the making.

    Attributes:
        target: The directory that the user wants.
        partial: Where it is made.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(target.name + ".partial")

    @property
    def checkpoint(self) -> Path:
        return self.partial / "checkpoint.npz"

    @property
    def new(self) -> Path:
        return self.partial / "new"

    def has_checkpoint(self) -> bool:
        return checkpoint.exists(self.checkpoint)

    def clear(self) -> None:
        """Forget the checkpoint and whatever was written so far."""
        for path in self.partial.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def empty_new(self) -> Path:
        """`new`, without what an earlier run may have left there."""
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir()
        return self.new

    @property
    def old(self) -> Path:
        return self.partial / "old"

    def publish(self, target: Path | None = None) -> None:
        """Give `new` its final name and forget the rest.  What stood there is replaced whole."""
        target = target or self.target
        try:
            if target.exists() and any(target.iterdir()):
                os.rename(target, self.old)
            os.rename(self.new, target)
        except OSError as error:
            if self.old.exists() and not target.exists():
                os.rename(self.old, target)
            raise OutputError(
                f"Expected to rename to {target}. Received: {error.strerror}. Use a directory "
                "that can be renamed (not a mount point) as --output."
            ) from error
        shutil.rmtree(self.partial, ignore_errors=True)


@contextlib.contextmanager
def workplace(directory: str, *, overwrite: bool, resume: bool) -> Iterator[Workplace]:
    """Claim an output directory before any work is done.

    Raises:
        OutputError: It exists, cannot be written, or another run is writing it.
    """
    place = Workplace(_absolute(directory))
    target = place.target
    with writing(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OutputError(
                f"Expected a directory as output. Received: {target}, which is a "
                f"{'link' if target.is_symlink() else 'file'}. Choose another --output."
            )
    with locked(place.partial, target=target):
        try:
            with writing(target):
                _prepare(place, overwrite, resume)
            yield place
        finally:
            if place.partial.exists() and not place.has_checkpoint():
                shutil.rmtree(place.partial, ignore_errors=True)


def _prepare(place: Workplace, overwrite: bool, resume: bool) -> None:
    """Tidy up after an earlier run that was killed, and see that nothing is overwritten unasked."""
    target = place.target
    if place.old.exists():  # killed after the first of its two renames, or after both
        shutil.rmtree(place.old) if target.exists() else os.rename(place.old, target)
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise OutputError(
            f"Expected a new output. Received: {target}, which exists. Use --overwrite, or another "
            "--output."
        )
    if overwrite and not resume:
        place.clear()
    if not resume:
        checkpoint.require_free(place.checkpoint, "or --overwrite to start afresh")


def is_interrupted(directory: str) -> bool:
    """Whether a checkpoint waits for --resume."""
    return Workplace(_absolute(directory)).has_checkpoint()


@contextlib.contextmanager
def writing(target: Path, what: str = "an output", flag: str = "--output") -> Iterator[None]:
    """Raises OutputError, naming what is written and by which flag its place is chosen, where the
    disk is full or the path cannot be written."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"Expected {what} that can be written. Received: {target} "
            f"({error.strerror or error}). Make room, create its parent folder or choose another "
            f"{flag}."
        ) from error


def _absolute(directory: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(directory)))


@contextlib.contextmanager
def locked(
    folder: Path, what: str = "an output", flag: str = "--output", target: Path | None = None
) -> Iterator[None]:
    """Hold a folder, made if need be, against other runs of any command.

    The lock goes with the process, however that ends; its file may stay and means nothing.

    Args:
        folder: What is held; its parent must be there.
        what: What it is, in errors.
        flag: By which it is chosen.
        target: What errors name; default: the folder.

    Raises:
        OutputError: Another run holds it, or it cannot be written.
    """
    target = target or folder
    made = not folder.exists()
    with writing(target, what, flag):
        lock = _held(folder / LOCK)
    if lock is None:
        raise OutputError(
            f"Expected one run at a time. Received: {target}, which another run is writing. "
            f"Wait for it, or choose another {flag}."
        )
    try:
        yield
    finally:
        if made:
            _remove_empty(folder)
        os.close(lock)


def _held(place: Path) -> int | None:
    """A descriptor that holds the lock file, made with its folder, or None if another does."""
    while True:
        place.parent.mkdir(exist_ok=True)
        lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks: everything else holds
            return lock
        # Whoever held it may have deleted it before it could be held here.
        if place.exists() and os.path.samestat(os.fstat(lock), place.stat()):
            return lock
        os.close(lock)


def _remove_empty(folder: Path) -> None:
    """Delete a folder in which there is nothing but the lock."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
