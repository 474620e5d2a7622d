"""Files that are there whole or not at all, whenever the process is killed and however full the disk is."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

UNFINISHED = ".tmp"  # behind the name of a file that is being written


def write_whole(path: pathlib.Path, content: bytes | str) -> None:
    """Writes a file beside its place and moves it there; one that is there stays as it is until then.

    Raises:
      OSError: it cannot be written; nothing is left of it.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        unfinished.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file


def write_json(path: pathlib.Path, content: Any) -> None:
    """As `write_whole`, of what JSON can hold."""
    write_whole(path, json.dumps(content, indent=1) + "\n")
