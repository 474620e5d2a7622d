"""The three small files of an annotated folder: project.toml, classes.csv and splits.csv.

project.toml, of which every key may be left out:

    class_names = ["bubble", "ice"]   # of the classes 1, 2, ...; more than one needs classes.csv
    pixel_size = 0.5                  # micrometres, of images whose files do not say it
    channels = [0]                    # of the images, that the network sees; all if left out
    complete = true                   # every object of the images in partial/ carries a mark
    incomplete = ["image7"]           # but for those of these images

classes.csv has the columns name (of the image, without ending), id and class; splits.csv name and split.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rams_jax.annotations import AnnotationError
from rams_jax.datasets.findings import Report, error, reported
from rams_jax.tables import in_words, parse_toml, read_table, read_text, shown

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Project:
    """What project.toml says."""

    class_names: tuple[str, ...] = ()  # of the classes 1, 2, ...; () = one class without a name
    pixel_size: float | None = None  # micrometres
    channels: tuple[int, ...] = ()  # () = all
    complete: bool = True
    incomplete: tuple[str, ...] = ()  # names of images


def _list_of(kind: type, test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list) and all(type(x) is kind and test(x) for x in v) and len(v) == len(set(v))


# What a key may hold, in words and as a test.
_KEYS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "class_names": ('a list of different names, such as ["bubble", "ice"]', _list_of(str, bool)),
    "pixel_size": ("a number above 0, in micrometres", lambda v: type(v) in (int, float) and 0 < v < float("inf")),
    "channels": ("a list of different integers from 0 up, such as [0]", _list_of(int, lambda x: x >= 0)),
    "complete": ("true or false", lambda v: type(v) is bool),
    "incomplete": ("a list of different names of images", _list_of(str, bool)),
}


def read_project(path: pathlib.Path, names: Collection[str], report: Report) -> Project:
    """Reads project.toml; without the file, or in place of a wrong value, come the defaults.

    Args:
      path: of the file.
      names: of the images.
      report: takes the findings project-syntax, project-key, project-value.
    """
    if not path.is_file():
        return Project()
    content: dict[str, Any] = {}
    with reported(report, "project-syntax", path):
        content = parse_toml(path, read_text(path))
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in _KEYS:
            hint = _near(key, _KEYS) or f"it may hold {', '.join(_KEYS)}."
            error(report, "project-key", path, f"there is no key {shown(repr(key))}; {hint}")
        elif not _KEYS[key][1](value):
            given = json.dumps(value, default=str, ensure_ascii=False)
            error(report, "project-value", path, f"{key} is {shown(given)}, but must be {_KEYS[key][0]}.")
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    for name in values.get("incomplete", ()):
        if name not in names:
            error(report, "project-value", path, f"incomplete: {_no_image(shown(name), names)}")
    return Project(**values)


def read_classes(
    path: pathlib.Path, names: Collection[str], class_names: Sequence[str], report: Report
) -> dict[str, dict[int, int]] | None:
    """Reads classes.csv: class (1..K) by image name and id; {} without the file; None if there is any mistake.

    Args:
      path: of the file.
      names: of the images.
      class_names: of project.toml.
      report: takes the findings classes-table and classes-unnamed.
    """
    found: dict[str, dict[int, int]] = {}
    mistakes = 0
    if not path.is_file():
        if len(class_names) < 2:
            return found
        remedy = "write one with the columns name, id and class, and a line for every object."
        names_them = f"names {len(class_names)} classes, but there is no classes.csv; {remedy}"
        error(report, "classes-table", path.with_name("project.toml"), names_them)
        return None
    rows = _rows(path, ("name", "id", "class"), "classes-table", report)
    if rows and not class_names:
        kinds = dict.fromkeys(row["class"] for _, row in rows)
        listed = ", ".join(json.dumps(kind, ensure_ascii=False) for kind in kinds)
        remedy = f"write class_names = [{listed}] into {path.with_name('project.toml')}."
        error(report, "classes-unnamed", path, f"the order of the classes is nowhere said; {remedy}")
        return None
    for line, row in rows:
        name, number, kind = row["name"], row["id"], row["class"]
        if name not in names:
            wrong = _no_image(name, names)
        elif not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) > 0):
            wrong = f"the id is {number!r}, but must be an integer from 1 up."
        elif kind not in class_names:
            hint = _near(kind, class_names) or f"project.toml lists {', '.join(class_names)}."
            wrong = f"there is no class {kind!r}; {hint}"
        elif int(number) in found.setdefault(name, {}):
            wrong = f"object {number} of {name} is listed twice; keep one of the two."
        else:
            found[name][int(number)] = 1 + list(class_names).index(kind)
            continue
        mistakes += 1
        error(report, "classes-table", path, f"line {line}: {wrong}")
    return found if rows and not mistakes else None


def read_splits(
    path: pathlib.Path, names: Collection[str], outlined: Collection[str], report: Report
) -> dict[str, str]:
    """Reads splits.csv: the split of each image, or {} if there is any mistake.

    Args:
      path: of the file, which exists.
      names: of the images.
      outlined: names of the images that have a full mask.
      report: takes findings of the kind splits-table.
    """
    part: dict[str, str] = {}
    wrong = []
    rows = _rows(path, ("name", "split"), "splits-table", report)
    for line, row in rows:
        name, kind = row["name"], row["split"]
        if name not in names:
            wrong.append(f"line {line}: {_no_image(name, names)}")
        elif kind not in SPLITS:
            wrong.append(f"line {line}: {name} is for {kind!r}, but must be for {', '.join(SPLITS)}.")
        elif name in part:
            wrong.append(f"line {line}: {name} is listed twice; keep one of the two.")
        elif kind != "train" and name not in outlined:
            wrong.append(f"line {line}: {name} is for {kind}, but has no full mask to compare with; outline it.")
        else:
            part[name] = kind
    missing = sorted(set(names) - set(part))
    if missing and rows and not wrong:  # otherwise they follow from what is wrong already
        others = f" and {len(missing) - 1} others are" if len(missing) > 1 else " is"
        wrong.append(f"{missing[0]}{others} missing; list every image.")
    absent = [kind for kind in SPLITS if kind not in part.values()]
    if absent and rows and not wrong:
        wrong.append(f"no image is for {absent[0]}; each of {', '.join(SPLITS)} needs one.")
    for sentence in wrong:
        error(report, "splits-table", path, sentence)
    return {} if wrong else part


def _no_image(name: str, names: Collection[str]) -> str:
    return f"there is no image {name!r}; {_near(name, names) or 'give names without ending.'}"


def _near(word: str, known: Collection[str]) -> str:
    """`did you mean cells?`, or nothing where no known word is similar."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else ""


def _rows(path: pathlib.Path, columns: Sequence[str], code: str, report: Report) -> list[tuple[int, Mapping[str, str]]]:
    """The rows of a table with their line numbers, stripped of blanks; [] where it cannot be read."""
    if not path.is_file():
        return []
    with reported(report, code, path):
        _, rows = read_table(path, columns)
        if not rows:
            raise AnnotationError(f"{path}: holds no lines below {in_words(columns)}; fill it in, or remove it.")
        return rows
    return []
