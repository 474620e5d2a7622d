"""The text files beside the images of a folder."""

from __future__ import annotations

import csv
import io
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from rams_jax.annotations import AnnotationError
from rams_jax.claims import LARGEST_TEXT

_LONGEST = 255  # characters of a cell; no file name is longer


def read_text(path: pathlib.Path) -> str:
    """The whole file.

    Raises:
      AnnotationError: it cannot be read, is not UTF-8, or larger than 64 MiB.
    """
    try:
        if path.stat().st_size > LARGEST_TEXT:
            raise AnnotationError(f"{path}: larger than {LARGEST_TEXT // 2**20} MiB; is it the right file?")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise AnnotationError(f"{path}: is not UTF-8 text; save it as UTF-8.") from None
    except OSError as problem:
        raise AnnotationError(f"{path}: cannot be read ({problem.strerror}); allow reading it.") from None


def parse_toml(path: pathlib.Path, text: str) -> dict[str, Any]:
    """What the text of a TOML file says.

    Raises:
      AnnotationError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as problem:  # integers of thousands of digits are plain ValueErrors
        raise AnnotationError(f"{path}: is not TOML ({problem}); lines look like pixel_size = 0.5.") from None


def shown(value: str) -> str:
    """A text that somebody else wrote, short enough for a sentence."""
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."


def in_words(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return f"{', '.join(names[:-1])} and {names[-1]}"


def read_table(path: pathlib.Path, columns: Sequence[str]) -> tuple[list[str], list[tuple[int, Mapping[str, str]]]]:
    """A CSV file with a header.

    Args:
      path: of the file.
      columns: at least two that it must have; other ones are left out of the rows.

    Returns:
      All names of its header, and its rows with their line numbers, stripped of blanks.

    Raises:
      AnnotationError: it cannot be read as such a table.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)), restval="")
    try:
        header = [column.strip() for column in reader.fieldnames or ()]
        reader.fieldnames = header
        rows: list[tuple[int, Mapping[str, str]]] = [
            (reader.line_num, {column: (row.get(column) or "").strip() for column in columns}) for row in reader
        ]
    except csv.Error as problem:
        raise AnnotationError(f"{path}: cannot be read as CSV ({problem}); save it as such again.") from None
    if not set(columns) <= set(header):
        raise AnnotationError(
            f"{path}: needs the columns {in_words(columns)}, named in its first line, separated by commas."
        )
    for line, row in rows:
        if max(map(len, row.values())) > _LONGEST:
            raise AnnotationError(f"{path}: line {line} holds more than {_LONGEST} characters in a cell; shorten it.")
    return header, rows
