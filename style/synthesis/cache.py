"""What the pictures of one command can share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

# How much is kept: of a few sizes and styles, what is made for each.
LIMIT = 16


class Cache:
    """What was made, by key; beyond `LIMIT` things the one goes that was wanted least recently."""

    def __init__(self) -> None:
        self._made: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What stands under the key, made now where nothing does."""
        if key not in self._made:
            made = make()  # which may itself ask for other things
            self._made[key] = made
            while len(self._made) > LIMIT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]
