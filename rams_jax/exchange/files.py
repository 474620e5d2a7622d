"""Reading files that somebody else made, with limits: nothing is written elsewhere, nothing grows without bound."""

from __future__ import annotations

import contextlib
import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

from rams_jax import claims
from rams_jax.annotations import AnnotationError

LARGEST_FILE = 256 * 2**20  # bytes, unpacked
MOST_MEMBERS = 50_000  # of a zip


def read_bytes(path: pathlib.Path) -> bytes:
    """The contents of a file.

    Raises:
      AnnotationError: it is missing, unreadable, or larger than 256 MiB.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror}).") from None
    if len(data) > LARGEST_FILE:
        raise AnnotationError(
            f"{path}: larger than {LARGEST_FILE // 2**20} MiB; export fewer images or objects a file."
        )
    return data


def zip_names(path: pathlib.Path) -> list[str]:
    """Names (without folder) of the members of a zip, in their order.

    Raises:
      AnnotationError: not a zip, a damaged or absurdly large one.
    """
    with _opened_zip(path) as archive:
        return [bare_name(member.filename) for member in _members(path, archive)]


def read_zip(path: pathlib.Path, endings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Names (without folder) and contents of the members of a zip that end in one of `endings`, in their order.

    Raises:
      AnnotationError: not a zip, a damaged, encrypted or absurdly large one.
    """
    left = LARGEST_FILE
    with _opened_zip(path) as archive:
        for member in _members(path, archive):
            name = bare_name(member.filename)
            if not name.lower().endswith(endings):
                continue
            with archive.open(member) as file:
                data = file.read(left + 1)
            left -= len(data)
            if left < 0:
                raise AnnotationError(f"{path}: larger than {LARGEST_FILE // 2**20} MiB when unpacked; split it.")
            yield name, data


def unpack(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Unpacks a zip that somebody made of an annotated folder; nothing is written before all names are checked.

    Args:
      path: the zip, with or without a folder around `images`, `masks` and the others.
      folder: a new folder for its contents.

    Returns:
      `folder`, or the one in it that holds `images`.

    Raises:
      AnnotationError: `folder` exists already; not a zip, a damaged, encrypted or too large one, or one with a file
        that would land outside of `folder`.
    """
    if folder.exists():
        raise AnnotationError(f"{folder}: exists already and is not overwritten; name a new folder.")
    with _opened_zip(path) as archive:
        members = [m for m in _members(path, archive) if "__MACOSX" not in m.filename]
        claims.check_members(members, folder)
        archive.extractall(folder, members)
    found = [images.parent for images in folder.rglob("images") if images.is_dir()]
    return min(found, key=lambda p: len(p.parts), default=folder)


def parse_json(source: str, data: bytes) -> Any:
    """What JSON text holds.

    Raises:
      AnnotationError: it is not JSON, or nested absurdly deep.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{source}: is not readable JSON ({str(error)[:80]}); export it again.") from None


def bare_name(path: object) -> str:
    """The last part of a path of any system; where it points to does not matter, as it only names an image."""
    name = str(path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in name)


@contextlib.contextmanager
def _opened_zip(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except AnnotationError:
        raise
    except claims.ClaimError as error:
        raise AnnotationError(f"{path}: {error}") from None
    except Exception as error:  # each way to pack has its own, and zipfile checks no lengths
        raise AnnotationError(f"{path}: cannot be read as a zip ({str(error)[:100]!a}); save it again.") from None


def _members(path: pathlib.Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip, without what macOS adds."""
    members = archive.infolist()
    if len(members) > MOST_MEMBERS:
        raise AnnotationError(f"{path}: holds {len(members)} files, more than {MOST_MEMBERS}; split it.")
    return [m for m in members if not m.is_dir() and not bare_name(m.filename).startswith(".")]
