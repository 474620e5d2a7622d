"""The two small files of a folder that say what its objects are: classes.csv and project.toml."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence

from rams_jax.annotations import AnnotationError
from rams_jax.tables import parse_toml, read_table, read_text

Classes = Mapping[str, Mapping[int, str]]  # class name, by image name and id
_COLUMNS = ("name", "id", "class")


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder to train from, as it is before the import."""

    folder: pathlib.Path
    classes: Classes  # of classes.csv
    class_names: tuple[str, ...]  # of project.toml


def read_project(folder: pathlib.Path) -> Project:
    """Reads classes.csv and project.toml, where they are there.

    Raises:
      AnnotationError: one of them cannot be understood.
    """
    path = folder / "project.toml"
    return Project(folder, read_classes(folder), _class_names(path, _text(path)))


def read_classes(folder: pathlib.Path) -> dict[str, dict[int, str]]:
    """What classes.csv says (columns name, id, class), or nothing where there is none.

    Raises:
      AnnotationError: it cannot be read, or lacks a column.
    """
    path = folder / "classes.csv"
    found: dict[str, dict[int, str]] = {}
    if not path.is_file():
        return found
    for line, row in read_table(path, _COLUMNS)[1]:
        try:
            found.setdefault(row["name"], {})[int(row["id"])] = row["class"]
        except ValueError:
            raise AnnotationError(f"{path}: line {line}: needs a name, an integer id and a class.") from None
    return found


def extended_classes(folder: pathlib.Path, new: Classes) -> str:
    """The text of classes.csv with more rows at its end."""
    path = folder / "classes.csv"
    text = _text(path)
    header = list(_COLUMNS)
    buffer = io.StringIO()
    if text:
        header, _ = read_table(path, _COLUMNS)
        buffer.write(text if text.endswith("\n") else text + "\n")
    table = csv.DictWriter(buffer, header, restval="", lineterminator="\n")
    if not text:
        table.writeheader()
    for name in sorted(new):
        for number, class_name in sorted(new[name].items()):
            table.writerow({"name": name, "id": number, "class": class_name})
    return buffer.getvalue()


def extended_project(folder: pathlib.Path, class_names: Sequence[str], pixel_size: float | None) -> str:
    """The text of project.toml with these class names, all else as it was.

    Args:
      folder: that holds it, or does not yet.
      class_names: all of them.
      pixel_size: micrometres, for a new project.toml; None: not known.

    Raises:
      AnnotationError: the file is written in a way that is not understood.
    """
    path = folder / "project.toml"
    old = _text(path)
    line = "class_names = [" + ", ".join(json.dumps(name, ensure_ascii=False) for name in class_names) + "]"
    if not old:
        return line + "\n" + (f"pixel_size = {pixel_size!r}\n" if pixel_size is not None else "")
    new, count = re.subn(r"^class_names\s*=\s*\[[^\]]*\]", lambda _: line, old, count=1, flags=re.MULTILINE)
    new = new if count else line + "\n" + old  # above all tables
    try:
        understood = parse_toml(path, new) == parse_toml(path, old) | {"class_names": list(class_names)}
    except AnnotationError:
        understood = False
    if not understood:
        raise AnnotationError(f"{path}: cannot be extended; write this into it, then import again: {line}")
    return new


def _class_names(path: pathlib.Path, text: str) -> tuple[str, ...]:
    names = parse_toml(path, text).get("class_names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AnnotationError(f'{path}: class_names must be a list of names, such as ["nucleus"].')
    return tuple(names)


def _text(path: pathlib.Path) -> str:
    return read_text(path) if path.is_file() else ""
