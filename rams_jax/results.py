"""The files of a prediction: which images are meant, and a folder of results in which nothing is half written."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Of the images in a folder; a file or a pattern that is given may have any ending.
ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".dcm", ".czi", ".nd2", ".lif", ".dv", ".vsi", ".oir")
_SETTINGS, TABLE = "predict.json", "measurements.csv"


class InferenceError(ValueError):
    """The images or the output folder cannot be used; the message is one sentence that says why and what to do."""


def find_images(paths: Sequence[str]) -> tuple[pathlib.Path, dict[str, pathlib.Path]]:
    """The images that files, folders and patterns stand for.

    Args:
      paths: a folder stands for the images directly in it; `*`, `?` and `**` in others are expanded.

    Returns:
      The folder that all of them are in, and the images by name: the path from there, without ending.

    Raises:
      InferenceError: there are none, or two have the same name.
    """
    found: list[pathlib.Path] = []
    for path in (pathlib.Path(p).expanduser() for p in paths):
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
            if not files:
                raise InferenceError(f"{path}: no images directly in this folder; they end in {', '.join(ENDINGS)}.")
        else:
            files = [path] if path.is_file() else sorted(map(pathlib.Path, glob.glob(str(path), recursive=True)))
            if not files:
                raise InferenceError(f"{path}: there is no such file or folder, and as a pattern it fits none.")
        found += [p.absolute() for p in files if p.is_file()]
    if not found:
        raise InferenceError(f"{paths[0]}: no files; give a file, a folder, or a pattern such as 'folder/*.tif'.")
    base = pathlib.Path(os.path.commonpath([p.parent for p in found]))
    images: dict[str, pathlib.Path] = {}
    for image in dict.fromkeys(found):
        short = image.name.removesuffix(image.suffix).removesuffix(".ome")
        name = (image.relative_to(base).parent / short).as_posix()
        if name in images:
            raise InferenceError(f"{image}: {images[name].name} has the same name; predict them into two folders.")
        images[name] = image
    return base, images


def claim(out: pathlib.Path, made_by: Mapping[str, Any]) -> None:
    """Makes `out` the folder of these settings, or checks that it is."""
    settings = out / _SETTINGS
    if out.exists() and not out.is_dir():
        raise InferenceError(f"{out}: is a file; give a new folder as --out.")
    if not settings.exists():
        others = sorted(p.name for p in out.iterdir() if p.name != f".{_SETTINGS}.unfinished") if out.exists() else []
        if others:
            raise InferenceError(f"{out}: holds {others[0]!r} but no {_SETTINGS}; give a new or empty folder as --out.")
        write_whole(settings, lambda p: _write_json(p, {"made_by": made_by, "tables": []}))
        return
    try:
        said = json.loads(settings.read_text())
        there, _ = said["made_by"], said["tables"]
        different = [key for key in made_by if there[key] != made_by[key]]
    except (ValueError, KeyError, TypeError) as error:
        raise InferenceError(f"{settings}: is damaged; give a new folder as --out.") from error
    if different:
        key = different[0]
        raise InferenceError(
            f"{out}: was made with {key} = {there[key]}, not with {made_by[key]}; give a new folder as --out."
        )


def write_whole(target: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Writes a file, or a folder, beside its place and moves it there, so that a kill leaves nothing in part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    unfinished.unlink(missing_ok=True)
    write(unfinished)
    unfinished.rename(target)


def write_table(out: pathlib.Path) -> bool:
    """Puts the rows of all images together; False, and nothing done, where the user has changed the table."""
    said = json.loads((out / _SETTINGS).read_text())
    table = out / TABLE
    before = [_sha256(table)] if table.exists() else []
    if not set(before) <= set(said["tables"]):
        return False
    parts = sorted((out / "measurements").rglob("*.csv"))
    columns: dict[str, None] = {}
    for part in parts:
        with part.open(newline="", encoding="utf-8") as file:
            columns |= dict.fromkeys(next(csv.reader(file), []))
    unfinished = table.with_name(f".{TABLE}.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as joined:
        writer = csv.DictWriter(joined, list(columns), restval="")
        writer.writeheader()
        for part in parts:
            with part.open(newline="", encoding="utf-8") as file:
                writer.writerows(csv.DictReader(file))
    tables = [*before, _sha256(unfinished)]  # both, for a kill may come before the next line
    write_whole(out / _SETTINGS, lambda p: _write_json(p, said | {"tables": tables}))
    unfinished.rename(table)
    return True


def _write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
