"""Where a run reads and where it writes: never the same place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from vgg_normalize.errors import UsageError

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path] | None


def require_distinct(inputs: Mapping[str, Paths], outputs: Mapping[str, Paths]) -> None:
    """See that no output lies at an input, nor two outputs at one place, links resolved.

    An input that is not there cannot be overwritten: who reads it says so.  Values that are names
    and no paths ("vgg19", "sample") are the caller's to leave out, and so are flags that a run
    does not look at.  None and "" are flags that were not given.

    Args:
        inputs: Flag to the path that it names, or the paths.
        outputs: Likewise; those of one flag may be alike.

    Raises:
        UsageError: Two are one; the message names both flags and the path.
    """
    taken: dict[object, str] = {}
    for flag, path in _each(inputs):
        if os.path.exists(path):
            taken.update(dict.fromkeys(_identities(path), flag))
    for flag, path in _each(outputs):
        identities = _identities(path)
        other = next((taken[key] for key in identities if key in taken), flag)
        if other != flag:
            raise UsageError(
                f"Expected every output at a place of its own. Received: --{flag} and --{other} "
                f"are both {os.path.realpath(path)}. Choose another --{flag}."
            )
        taken.update(dict.fromkeys(identities, flag))


def _each(named: Mapping[str, Paths]) -> Iterator[tuple[str, str]]:
    for flag, value in named.items():
        several = [value] if value is None or isinstance(value, str | os.PathLike) else value
        for path in several:
            if path:
                yield flag, os.path.expanduser(os.fspath(path))


def _identities(path: str) -> list[object]:
    """What two paths to one place share: also by hard links and where case does not matter."""
    identities: list[object] = [os.path.realpath(path)]
    try:
        status = os.stat(path)
    except OSError:  # not there yet
        return identities
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        return []  # /dev/null and pipes: nothing there can be overwritten
    return [*identities, (status.st_dev, status.st_ino)]
