"""The largest memory of this process since a moment, for both sides of a benchmark (Linux)."""

from __future__ import annotations

from pathlib import Path

PROCESS = Path("/proc/self")


def reset() -> None:
    """Begin anew: what was freed since no longer counts."""
    (PROCESS / "clear_refs").write_text("5")


def gib() -> float:
    """The largest resident set since, in GiB."""
    lines = (PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
