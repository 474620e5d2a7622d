"""What an annotated folder holds, without reading an image. The format is described in `datasets.folder`."""

from __future__ import annotations

import dataclasses
import difflib
import pathlib
from collections.abc import Collection, Mapping

from rams_jax.datasets.auxiliary import TASKS
from rams_jax.datasets.findings import Finding, Report, error, warning
from rams_jax.datasets.partial import image_seed
from rams_jax.datasets.project import Project, read_classes, read_project, read_splits

_MAPS = ("masks", "partial")
PARTS = ("images", *_MAPS, *(task.folder for task in TASKS.values()))
TABLES = ("project.toml", "classes.csv", "splits.csv")
_NO_PIXELS = (".csv", ".geojson", ".ini", ".json", ".md", ".pdf", ".roi", ".toml", ".txt", ".xml", ".zip")
_LOSSY = (".jpg", ".jpeg", ".jfif")
_LITTER = ("thumbs.db", "desktop.ini")  # of Windows


@dataclasses.dataclass(frozen=True)
class Entry:
    """The files of one image."""

    name: str
    image: pathlib.Path
    full: pathlib.Path | None
    partial: pathlib.Path | None
    strokes: Mapping[str, pathlib.Path]  # by auxiliary task
    split: str  # train, validation or test
    complete: bool  # every object carries a mark, as far as project.toml knows


@dataclasses.dataclass(frozen=True)
class Folder:
    """An annotated folder."""

    path: pathlib.Path
    project: Project
    classes: Mapping[str, Mapping[int, int]] | None  # 1..K by image name and id, as classes.csv says; None: not usable
    entries: tuple[Entry, ...]  # in the order of their names


def open_folder(path: pathlib.Path | str, seed: int, report: Report) -> Folder | None:
    """Lists the files of a folder, reads its tables, and deals its images to train, validation and test.

    The splits are those of splits.csv. Without it, 15 % of the images with a full mask validate and 15 % test, chosen
    by chance, at least one each; the rest and all images without one train. Images that share objects (a time series,
    slices, one patient) need a splits.csv.

    Args:
      path: laid out as `datasets.folder` says.
      seed: of the split by chance.
      report: takes the findings.

    Returns:
      The folder, less the images that cannot be used; None where there is nothing to look at.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        error(report, "no-folder", path, "there is no such folder; name one that holds images/.")
        return None
    mistakes: list[bool] = []  # of the listing, from which other findings would only follow

    def listed(finding: Finding) -> None:
        mistakes.append(finding.error)
        report(finding)

    misnamed = _check_names(path, listed)
    found = {part: _files(path / part, part, listed) for part in PARTS}
    images = found["images"].usable
    if not images:
        if "images" not in misnamed:
            error(report, "no-images", path, f"no images; put them into {path / 'images'}.")
        return None
    full, partial = (found[part].usable for part in _MAPS)
    unannotated = set(images) - {name for part in _MAPS for name in found[part].all}
    for part in PARTS[1:]:
        for name in sorted(set(found[part].usable) - found["images"].all):
            unannotated -= _report_orphan(found[part].usable[name], name, path / "images", unannotated, listed)
    if not misnamed & set(_MAPS):
        _report_unannotated(path, images, unannotated, listed)
    splits = {} if any(mistakes) else _deal(path, set(images), set(full), seed, report)
    before = sum(mistakes)
    project = read_project(path / "project.toml", images, listed)
    classes = None
    if sum(mistakes) == before and not misnamed & {"project.toml", "classes.csv"}:
        classes = read_classes(path / "classes.csv", images, project.class_names, report)
    entries = tuple(
        Entry(
            name=name,
            image=images[name],
            full=full.get(name),
            partial=partial.get(name),
            strokes={t: files[name] for t, task in TASKS.items() if name in (files := found[task.folder].usable)},
            split=splits.get(name, "train"),
            complete=project.complete and name not in project.incomplete,
        )
        for name in sorted((set(full) | set(partial)) & set(images))
    )
    if splits and not any(entry.full for entry in entries if entry.split == "train"):
        remedy = f"outline all objects of at least one, into {path / 'masks'}."
        error(report, "no-strong", path, f"no training image has a full mask; {remedy}")
    return Folder(path, project, classes, entries)


@dataclasses.dataclass(frozen=True)
class _Files:
    usable: Mapping[str, pathlib.Path]  # by name without ending
    all: set[str]  # names, also of those that something is wrong with


def _files(folder: pathlib.Path, part: str, report: Report) -> _Files:
    usable: dict[str, pathlib.Path] = {}
    broken = set()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or path.name.lower() in _LITTER:
            continue
        name = path.name.removesuffix(path.suffix).removesuffix(".ome")
        ending = path.suffix.lower()
        if path.is_dir():
            warning(
                report, "subfolder", path, f"is a folder, and files in it are not read; move them up into {folder}."
            )
        elif ending in _NO_PIXELS and part == "images":
            warning(report, "not-an-image", path, "is not an image; remove it.")
        elif ending in _NO_PIXELS:
            remedy = "bring it in with launch/import_annotations.py, or remove it."
            error(report, "not-an-image", path, f"is not an image; {remedy}")
            broken.add(name)
        elif ending in _LOSSY and part != "images":
            remedy = "export it again as PNG or TIFF."
            error(report, "lossy-mask", path, f"JPEG changes the ids at the rims of objects; {remedy}")
            broken.add(name)
        elif name in usable:
            error(report, "same-name", path, f"{usable[name].name} has the same name; keep one of the two.")
        else:
            usable[name] = path
    return _Files(usable, set(usable) | broken)


def _check_names(path: pathlib.Path, report: Report) -> set[str]:
    """Reports files and folders whose name is nearly a known one; returns what they should be called."""
    here = {child.name for child in path.iterdir()}
    absent = [name for name in PARTS + TABLES if name not in here]
    meant = set()
    for name in sorted(here - set(PARTS + TABLES)):
        near = [] if name.startswith(".") else difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if near:
            meant.add(near[0])
            error(report, "misnamed", path / name, f"nothing of this name is read; rename it to {near[0]}.")
    return meant


def _report_orphan(
    file: pathlib.Path, name: str, images: pathlib.Path, unannotated: Collection[str], report: Report
) -> set[str]:
    """Reports an annotation without image, and returns the name of the image that it seems to be meant for, if any."""
    inside = sorted((n for n in unannotated if n in name), key=len)[-1:]
    near = inside or difflib.get_close_matches(name, unannotated, n=1, cutoff=0.8)
    remedy = (
        f"if it is that of {near[0]}, rename it to {near[0]}{file.suffix}" if near else "remove it, or add the image"
    )
    error(report, "no-image", file, f"belongs to no image; {images} holds no {name}.*: {remedy}.")
    return set(near)


def _report_unannotated(
    path: pathlib.Path, images: Mapping[str, pathlib.Path], unannotated: Collection[str], report: Report
) -> None:
    if len(unannotated) == len(images):
        remedy = f"put full masks into {path / 'masks'} and marks into {path / 'partial'}."
        error(report, "no-annotation", path, f"no annotations; {remedy}")
        return
    for name in sorted(unannotated):
        remedy = f"draw {path / 'partial' / name}.tif or {path / 'masks' / name}.tif."
        error(report, "no-annotation", images[name], f"no annotation; {remedy}")


def _deal(
    path: pathlib.Path, names: Collection[str], outlined: Collection[str], seed: int, report: Report
) -> dict[str, str]:
    """The split of each image, or {} if there is a mistake."""
    table = path / "splits.csv"
    if table.is_file():
        return read_splits(table, names, outlined, report)
    if len(outlined) < 3:
        need = "three are needed: one each to train, validate and test."
        error(report, "few-outlined", path, f"{len(outlined)} images have a full mask, but {need}")
        return {}
    order = sorted(outlined, key=lambda name: (image_seed(seed, name), name))
    share = max(1, round(0.15 * len(order)))
    part = dict.fromkeys(order[:share], "validation") | dict.fromkeys(order[share : 2 * share], "test")
    return dict.fromkeys(names, "train") | part
