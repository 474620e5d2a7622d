"""A folder of images that somebody annotated.

    images/NAME.*      the images, of any format that bioio reads, or DICOM
    masks/NAME.*       full masks: instance maps with every object outlined
    partial/NAME.*     partial masks: instance maps with rough marks; their ids are those of the full mask
    interfaces/NAME.*  strokes where objects touch: 0 unknown, 1 yes, 2 no; likewise boundaries/ and background/
    classes.csv, splits.csv, project.toml: see `datasets.project`

An image needs a full or a partial mask; all else is optional. Where only the full one is there, marks are drawn from
it. Files are listed first (`open_folder`), then read one image after the other (`read_images`).
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence, Sized

import numpy as np
from tqdm import tqdm

from rams_jax import processes
from rams_jax.annotations import (
    AnnotationError,
    check_example,
    check_largest_id,
    mark_mistakes,
    normalise,
    read_image,
    read_instances,
    read_pixel_size,
)
from rams_jax.config import CLASS_NAMES
from rams_jax.datasets import auxiliary
from rams_jax.datasets.findings import Finding, Report, error, reported, stop, warning
from rams_jax.datasets.images import Images
from rams_jax.datasets.inspection import Pieces, inspect_map
from rams_jax.datasets.layout import Entry, Folder, open_folder
from rams_jax.datasets.overview import facts_of, inspect_all
from rams_jax.datasets.partial import annotate, image_seed, objects_shown, overlook
from rams_jax.datasets.project import SPLITS
from rams_jax.types import YES, Example, MarkSettings

_PATIENCE = 2.0  # seconds before a progress bar appears


@dataclasses.dataclass(frozen=True)
class Reading:
    """One image with its annotations, as they stand in the files."""

    entry: Entry
    image: np.ndarray  # number[H, W, C]
    pixel_size: float  # micrometres
    full: np.ndarray | None  # int32[H, W]
    partial: np.ndarray | None  # int32[H, W]
    strokes: Mapping[str, np.ndarray]  # int8[H, W, C] by auxiliary task
    classes: np.ndarray  # int32[J + 1]


def load(
    path: pathlib.Path | str,
    seed: int,
    marks: MarkSettings,
    tasks: tuple[str, ...],
    class_names: tuple[str, ...] = (),
    report: Report = stop,
) -> tuple[Images, Images, Images]:
    """Opens a folder for training; one process reads all images at once, each of several those that it asks for.

    What only all images together show is found by one process alone: `launch/check.py` always is one.

    Args:
      path: laid out as the head of this file says.
      seed: of the marks that are drawn and of the split by chance.
      marks: how they are drawn.
      tasks: auxiliary tasks, names in `auxiliary.TASKS`.
      class_names: of the classes that training expects; () for those of project.toml.
      report: takes the findings; raises errors, and may keep warnings.

    Returns:
      The examples for training, validation and test, each in the order of their names.

    Raises:
      AnnotationError: the first error found, or other classes than expected.
    """
    folder = open_folder(path, seed, report)
    if folder is None:
        raise AnnotationError(f"{path}: holds no images that can be used.")
    _check_class_names(folder, class_names)

    def example(reading: Reading) -> Example:
        entry = reading.entry
        made = annotate(
            name=entry.name,
            image=normalise(reading.image),
            full=reading.full,
            partial=reading.partial,
            valid=np.ones(reading.image.shape[:2], bool),
            pixel_size=reading.pixel_size,
            seed=seed,
            marks=marks,
            tasks=tasks,
            classes=reading.classes,
            strokes={task: strokes for task, strokes in reading.strokes.items() if task in tasks},
            complete=entry.complete or reading.partial is None,
        )
        check_example(made, _number_of_classes(folder), careful=reading.partial is not None)
        return made

    read: dict[str, Example] = (
        {} if processes.several() else {r.entry.name: example(r) for r in read_images(folder, report)}
    )

    def decode(entry: Entry) -> Example:
        if entry.name in read:
            return read[entry.name]
        reading, _ = _read(folder, entry, stop)
        assert reading is not None  # `stop` has raised otherwise
        return example(reading)

    def objects(entry: Entry) -> int | None:
        if entry.full is None:
            return None
        full = read_instances(entry.full)
        if entry.partial is None:
            return objects_shown(full, overlook(full, image_seed(seed, entry.name), marks))
        return objects_shown(full, read_instances(entry.partial))

    def images(split: str) -> Images:
        entries = [entry for entry in folder.entries if entry.split == split]
        return Images([entry.name for entry in entries], lambda i: decode(entries[i]), lambda i: objects(entries[i]))

    train, validation, test = (images(split) for split in SPLITS)
    return train, validation, test


def read_images(folder: Folder, report: Report) -> Iterator[Reading]:
    """Reads and checks the images of a folder one after the other; at the end, what only all together show.

    Args:
      folder: of `open_folder`.
      report: takes the findings.

    Yields:
      The images without errors.
    """
    facts = []
    count = _number_of_classes(folder)
    interval = 0.5 if sys.stderr.isatty() else 15.0
    for entry in tqdm(folder.entries, "reading", unit="image", delay=_PATIENCE, mininterval=interval, leave=False):
        reading, pieces = _read(folder, entry, report)
        if reading is None:
            continue
        maps = [
            None if data is None else (data, pieces[kind])
            for kind, data in (("full", reading.full), ("partial", reading.partial))
        ]
        facts.append(facts_of(entry, reading.image, reading.pixel_size, reading.classes, maps[0], maps[1], count))
        yield reading
    inspect_all(folder, facts, len(facts) == len(folder.entries), report)


def _read(folder: Folder, entry: Entry, report: Report) -> tuple[Reading | None, dict[str, Pieces]]:
    """One image, or None if there is an error in it; and the pieces of its maps."""
    errors = []

    def note(finding: Finding) -> None:
        errors.append(finding.error)
        report(finding)

    image, pixel_size = _read_pixels(entry.image, folder.project.pixel_size or 1.0, note)
    maps: dict[str, np.ndarray] = {}
    pieces: dict[str, Pieces] = {}
    for kind, path in (("full", entry.full), ("partial", entry.partial)):
        instances = None if path is None else _read_map(path, kind, entry, image, note)
        if path is not None and instances is not None:
            before = sum(errors)
            found = inspect_map(path, instances, kind == "partial", note)
            if sum(errors) == before:
                maps[kind], pieces[kind] = instances, found
    full, partial = maps.get("full"), maps.get("partial")
    if entry.partial is not None and partial is not None:
        _check_marks(entry, entry.partial, full, partial, note)
    strokes = _read_strokes(entry, image, partial, note)
    classes = np.zeros(1, np.int32)
    if not any(errors):
        classes = _classes(folder, entry, full, partial, note)
    if image is None or any(errors):
        return None, {}
    return Reading(entry, image, pixel_size, full, partial, strokes, classes), pieces


def _read_pixels(path: pathlib.Path, usual_size: float, report: Report) -> tuple[np.ndarray | None, float]:
    """An image and its pixel size; None if it cannot be used."""
    with reported(report, "image", path):
        image = read_image(path)
        if np.issubdtype(image.dtype, np.inexact) and not np.isfinite(image).all():
            raise AnnotationError(f"{path}: holds NaN or infinite values; replace them before training.")
        if image.size and (image == image[0, 0]).all():
            warning(report, "blank-image", path, "all pixels are the same; export it again, or leave it out.")
        return image, read_pixel_size(path, usual_size)
    return None, usual_size


def _read_map(
    path: pathlib.Path, kind: str, entry: Entry, image: np.ndarray | None, report: Report
) -> np.ndarray | None:
    """An instance map that fits the image: int32[H, W]; None if there is an error in it."""
    with reported(report, "mask", path):
        instances = read_instances(path)
        check_largest_id(str(path), kind, instances)
        if image is None:
            return None
        if instances.shape != image.shape[:2]:
            height, width = image.shape[:2]
            turned = " (it lies on its side)" if instances.shape == (width, height) else ""
            sizes = f"{instances.shape[0]} x {instances.shape[1]} pixels, but {entry.image.name} has {height} x {width}"
            raise AnnotationError(f"{path}: {sizes}{turned}; a mask must have the size of its image.")
        return instances
    return None


def _check_marks(
    entry: Entry, path: pathlib.Path, full: np.ndarray | None, partial: np.ndarray, report: Report
) -> None:
    if full is not None:
        for code, sentence in mark_mistakes(str(path), full, partial):
            report(Finding(code, path, sentence, error=True))
        unmarked = np.setdiff1d(full, partial)
        unmarked = unmarked[unmarked > 0]
        if len(unmarked) and entry.complete:
            wrong = f"object {unmarked[0]} of the full mask{_more(unmarked)} carries no mark"
            warning(
                report, "unmarked", path, f"{wrong}; mark it, or list {entry.name!r} as incomplete in project.toml."
            )
    elif not partial.any() and entry.complete:
        remedy = f"mark its objects if it has some, or list {entry.name!r} as incomplete in project.toml."
        warning(report, "no-marks", path, f"holds no mark, as if the image showed no object; {remedy}")


def _read_strokes(
    entry: Entry, image: np.ndarray | None, partial: np.ndarray | None, report: Report
) -> dict[str, np.ndarray]:
    found = {}
    for task, path in entry.strokes.items():
        drawn = _read_map(path, task, entry, image, report)
        if drawn is None:
            continue
        try:
            found[task] = auxiliary.read_strokes(drawn, task)
        except ValueError as problem:
            error(report, "strokes", path, f"{problem}; 0 is unknown, 1 yes, 2 no.")
            continue
        over = 0 if partial is None else int(((found[task] == YES).any(-1) & (partial > 0)).sum())
        if over:
            wrong = f"the strokes lie on marks of objects at {over} pixels, where both cannot be right; erase one."
            warning(report, "stroke-on-mark", path, wrong)
    return found


def _classes(
    folder: Folder, entry: Entry, full: np.ndarray | None, partial: np.ndarray | None, report: Report
) -> np.ndarray:
    """The class of each id of an image: int32[J + 1]."""
    count = _number_of_classes(folder)
    drawn = [np.zeros(0, np.int32)] + [m.ravel() for m in (full, partial) if m is not None]
    ids = np.setdiff1d(np.concatenate(drawn), 0).tolist()
    listed = (folder.classes or {}).get(entry.name, {})
    table = folder.path / "classes.csv"
    unused = sorted(set(listed) - set(ids))
    if unused:
        wrong = f"{entry.name} has no object {unused[0]}{_more(unused)}; remove the line, or draw the object."
        error(report, "classes-table", table, wrong)
    missing = sorted(set(ids) - set(listed))
    if missing and count > 1 and folder.classes is not None:
        wrong = f"object {missing[0]} of {entry.name}{_more(missing)} has no class; add a line for it."
        error(report, "classes-table", table, wrong)
    classes = np.zeros(max(ids, default=0) + 1, np.int32)
    for index in ids:
        classes[index] = listed.get(index, 1)
    return classes


def _more(ids: Sized) -> str:
    return f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""


def _number_of_classes(folder: Folder) -> int:
    return max(1, len(folder.project.class_names))


def _check_class_names(folder: Folder, expected: Sequence[str]) -> None:
    names = folder.project.class_names
    usual = len(names) == 1 and tuple(expected) == CLASS_NAMES  # nobody has named it
    if names and expected and tuple(expected) != names and not usual:
        raise AnnotationError(
            f"{folder.path / 'project.toml'}: the classes are {', '.join(names)}, but data.class_names is "
            f"{tuple(expected)}; train with --config=configs/folder.py:{folder.path}, or make them agree."
        )
    if not names and len(expected) > 1:
        raise AnnotationError(
            f"{folder.path}: all objects are of one class, but data.class_names is {tuple(expected)}; list the classes "
            "in project.toml and classes.csv."
        )
