"""Talks to `torch_worker.py`, which runs PyTorch in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


class Worker:
    """A PyTorch process that answers commands.

    Args:
        python: The interpreter of an environment with torch and numpy.
        device: What PyTorch computes on, "cpu" or "cuda".
    """

    def __init__(self, python: str, device: str = "cpu") -> None:
        script = Path(__file__).with_name("torch_worker.py")
        self._process = subprocess.Popen(
            [python, str(script), device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one command."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the PyTorch worker ended; see its error above")
        return json.loads(answer)
