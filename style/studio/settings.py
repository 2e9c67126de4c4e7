"""What the studio is asked for."""

from __future__ import annotations

import dataclasses

# This machine alone.
LOCAL = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class StudioSettings:
    """What the command is asked for; the contract of each field stands with its flag."""

    model: str = "vgg19"
    takes: str = "takes"
    networks: tuple[str, ...] = (".",)
    host: str = LOCAL
    port: int = 0
    password: str | None = None
