"""Writing a directory all or nothing: it is made beside its target, locked, and renamed when whole.

While a run is at work, `DIR.partial` stands beside DIR.  It holds the lock, the checkpoint, `new`
(which will become DIR), for an instant while a finished DIR is replaced `old`, and while `new` gets
its name `committing`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vgg_normalize.errors import OutputError
from vgg_normalize.runtime import checkpoint

try:
    import fcntl
except ImportError:  # Windows: no locks, everything else holds
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"


class StagingDirectory:
    """A directory in the making.

    Attributes:
        target: The directory that the user asked for.
        partial: The directory beside it in which it is made.
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

    @property
    def old(self) -> Path:
        return self.partial / "old"

    @property
    def committing(self) -> Path:
        return self.partial / "committing"

    def has_checkpoint(self) -> bool:
        return checkpoint.exists(self.checkpoint)

    def is_committed(self) -> bool:
        """Whether the target is whole and `partial` only waits to be deleted."""
        return self.target.exists() and self.committing.exists() and not self.new.exists()

    def clear(self) -> None:
        """Delete the checkpoint and whatever was written so far."""
        checkpoint.forget(self.checkpoint)  # first: without it nothing is left to go on from
        for path in self.partial.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def empty_new(self) -> Path:
        """Make `new`, without what an earlier run may have left there, and return it."""
        shutil.rmtree(self.new, ignore_errors=True)
        self.new.mkdir()
        return self.new

    def commit(self, target: Path | None = None) -> None:
        """Give `new` its final name and delete the rest.  An earlier directory is replaced whole.

        Args:
            target: The final name; default: `self.target`.

        Raises:
            OutputError: It cannot be renamed; an earlier directory stays.
        """
        target = target or self.target
        with guard_writes(target):
            self.committing.touch()
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
        with contextlib.suppress(OutputError):
            checkpoint.forget(self.checkpoint)  # before `committing`, see `is_committed`
        shutil.rmtree(self.partial, ignore_errors=True)


@contextlib.contextmanager
def staging(directory: str, *, overwrite: bool, resume: bool) -> Iterator[StagingDirectory]:
    """Claim an output directory before any work is done.

    Args:
        directory: Path of the output directory.
        overwrite: Whether an existing output may be replaced.
        resume: Whether to keep the checkpoint of an interrupted run.

    Raises:
        OutputError: The output exists, cannot be written, or another run is writing it.
    """
    staged = StagingDirectory(_absolute(directory))
    target = staged.target
    with guard_writes(target):
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise OutputError(
                f"Expected a directory as output. Received: {target}, which is a "
                f"{'link' if target.is_symlink() else 'file'}. Choose another --output."
            )
    with locked(staged.partial, target=target):
        try:
            with guard_writes(target):
                _prepare(staged, overwrite, resume)
            yield staged
        finally:
            if staged.partial.exists() and not staged.has_checkpoint():
                shutil.rmtree(staged.partial, ignore_errors=True)


def _prepare(staged: StagingDirectory, overwrite: bool, resume: bool) -> None:
    """Tidy up after an earlier run that was killed, and see that nothing is overwritten unasked."""
    target = staged.target
    if staged.is_committed():
        staged.clear()
    staged.committing.unlink(missing_ok=True)
    if staged.old.exists():  # killed after the first of its two renames, or after both
        shutil.rmtree(staged.old) if target.exists() else os.rename(staged.old, target)
    if target.exists() and any(target.iterdir()) and not overwrite:
        raise OutputError(
            f"Expected a new output. Received: {target}, which exists. Use --overwrite, or another "
            "--output."
        )
    if overwrite and not resume:
        staged.clear()
    if not resume:
        checkpoint.require_free(staged.checkpoint, "or --overwrite to start afresh")


def is_interrupted(directory: str) -> bool:
    """Whether a checkpoint waits for `--resume`."""
    staged = StagingDirectory(_absolute(directory))
    return staged.has_checkpoint() and not staged.is_committed()


def remove_leftovers(directory: str) -> None:
    """Delete what a killed run left beside its finished output, unless another run holds it.

    The checkpoint of an interrupted run stays: it was to replace the output.
    """
    staged = StagingDirectory(_absolute(directory))
    if not staged.partial.exists() or not staged.target.exists():
        return
    with contextlib.suppress(OSError, OutputError):
        lock = _acquire(staged.partial / LOCK)
        if lock is None:
            return
        try:
            if staged.is_committed() or not staged.has_checkpoint():
                staged.clear()
                shutil.rmtree(staged.partial)
        finally:
            os.close(lock)


@contextlib.contextmanager
def guard_writes(target: Path, what: str = "an output", flag: str = "--output") -> Iterator[None]:
    """Turn an OSError, such as a full disk, into an OutputError.

    Args:
        target: Path of the output, for the message.
        what: Name of the output in the message.
        flag: The flag that chooses the path.
    """
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
    """Lock a folder, made if need be, against other runs of any command.

    The lock ends with the process, however that ends; a lock file that stays means nothing.

    Args:
        folder: The folder to lock; its parent must exist.
        what: Name of the folder in error messages.
        flag: The flag that chooses the folder.
        target: Path that error messages name; default: the folder.

    Raises:
        OutputError: Another run holds the lock, or it cannot be written.
    """
    target = target or folder
    is_new = not folder.exists()
    with guard_writes(target, what, flag):
        lock = _acquire(folder / LOCK)
    if lock is None:
        raise OutputError(
            f"Expected one run at a time. Received: {target}, which another run is writing. "
            f"Wait for it, or choose another {flag}."
        )
    try:
        yield
    finally:
        if is_new:
            _remove_empty(folder)
        os.close(lock)


def _acquire(path: Path) -> int | None:
    """A descriptor that holds the lock file, made with its folder; None if another run holds it."""
    while True:
        path.parent.mkdir(exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks: everything else holds
            return lock
        # The run that held it may have deleted it before it could be locked here.
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            return lock
        os.close(lock)


def _remove_empty(folder: Path) -> None:
    """Delete a folder in which there is nothing but the lock."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
