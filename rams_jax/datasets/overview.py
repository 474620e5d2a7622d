"""What only all images of an annotated folder together show: too little to learn from, misfits, duplicates."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from rams_jax.datasets.findings import Report, error, warning
from rams_jax.datasets.inspection import Pieces, duplicates, inspect_marks, misfits, thumbnail
from rams_jax.datasets.layout import Entry, Folder

_FEW = 4  # outlined objects of a class, below which rho and the largest size are guesses
_ALL = 0.9  # share of the objects that marks cover, from which they look like full masks
_SCALES = 2.0  # between pixel sizes


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is kept of an image that was read."""

    entry: Entry
    channels: int
    pixel_size: float
    thumbnail: np.ndarray  # float32[256]
    outlined: np.ndarray  # int[K]: objects of each class in the full mask
    full: np.ndarray  # int[objects]: areas in the full mask, pixels
    marked: np.ndarray  # int[marks]: areas in the partial mask
    share: float | None  # area of the marks, relative to the objects'; None without both masks
    longest: int  # pixels, longer side of the bounding box of the largest outlined object
    marks: Pieces | None


def facts_of(
    entry: Entry,
    image: np.ndarray,
    pixel_size: float,
    classes: np.ndarray,
    full: tuple[np.ndarray, Pieces] | None,
    partial: tuple[np.ndarray, Pieces] | None,
    number_of_classes: int,
) -> Facts:
    """Facts of an image.

    Args:
      image: number[H, W, C].
      pixel_size: micrometres.
      classes: int32[J + 1], the class of each id.
      full: integer[H, W] and its pieces, or None.
      partial: likewise.
      number_of_classes: K.
    """
    areas = [np.zeros(0, int) if m is None else np.bincount(m[0].ravel())[1:] for m in (full, partial)]
    boxes = np.zeros((0, 4), int) if full is None else full[1].boxes[~full[1].apart()]
    return Facts(
        entry=entry,
        channels=image.shape[2],
        pixel_size=pixel_size,
        thumbnail=thumbnail(image),
        outlined=np.bincount(classes[1:][: len(areas[0])][areas[0] > 0], minlength=number_of_classes + 1)[1:],
        full=areas[0][areas[0] > 0],
        marked=areas[1][areas[1] > 0],
        share=float(areas[1].sum() / areas[0].sum()) if areas[0].sum() and partial is not None else None,
        longest=int((boxes[:, 2:] - boxes[:, :2]).max(initial=0)),
        marks=None if partial is None else partial[1],
    )


def inspect_all(folder: Folder, facts: Sequence[Facts], whole: bool, report: Report) -> None:
    """Reports what the images show together.

    Args:
      folder: that they are from.
      facts: of the images that could be read.
      whole: these are all images of the folder, so that what they lack is lacking.
      report: takes the findings.
    """
    if not facts:
        return
    _inspect_channels(folder, facts, report)
    longest = max(f.longest for f in facts)
    for f in facts:
        if f.marks is not None and longest and f.entry.partial is not None:
            inspect_marks(f.entry.partial, f.marks, longest, report)
    _inspect_areas(folder, facts, report)
    if whole:
        _inspect_strong(folder, facts, report)
    _inspect_scales(folder, facts, report)
    for i, j, alike in duplicates(np.stack([f.thumbnail for f in facts]), [f.entry.split for f in facts]):
        a, b = facts[i].entry, facts[j].entry
        wrong = f"nearly the same picture as {b.image.name} (correlation {alike:.2f}), but for {a.split} and that one"
        warning(report, "duplicate", a.image, f"{wrong} for {b.split}; put both into one split in splits.csv.")


def _inspect_channels(folder: Folder, facts: Sequence[Facts], report: Report) -> None:
    wanted = folder.project.channels
    usual = collections.Counter(f.channels for f in facts).most_common(1)[0][0]
    example = next(f.entry.image.name for f in facts if f.channels == usual)
    for f in facts:
        if wanted and max(wanted) >= f.channels:
            wrong = f"project.toml asks for channels {list(wanted)}, but the image has only 0 to {f.channels - 1}"
            error(report, "channels", f.entry.image, f"{wrong}; correct channels, or save the image with all of them.")
        elif not wanted and f.channels != usual:
            remedy = "save all alike, or say in project.toml which to use, such as channels = [0]."
            wrong = f"has {f.channels} channels, but {example} has {usual}; {remedy}"
            error(report, "channels", f.entry.image, wrong)


def _inspect_scales(folder: Folder, facts: Sequence[Facts], report: Report) -> None:
    fine, coarse = (f(facts, key=lambda fact: fact.pixel_size) for f in (min, max))
    if coarse.pixel_size > _SCALES * fine.pixel_size:
        span = f"{fine.pixel_size:g} ({fine.entry.name}) to {coarse.pixel_size:g} micrometres ({coarse.entry.name})"
        wrong = f"pixel sizes from {span}: objects differ in size as much; bring the images to one."
        warning(report, "pixel-sizes", folder.path, wrong)


def _inspect_areas(folder: Folder, facts: Sequence[Facts], report: Report) -> None:
    """Marks as large as objects, full masks that are marks, and the other way round."""
    for f in facts:
        if f.share is not None and f.share >= _ALL:
            remedy = "remove the file, and marks are simulated, or draw marks as on the other images."
            wrong = f"the marks cover {f.share:.0%} of the objects, as if the full mask were copied; {remedy}"
            warning(report, "marks-full", _path(f.entry.partial), wrong)
    full = [f for f in facts if len(f.full)]
    partial = [f for f in facts if len(f.marked) and f.share is None]
    objects, marks = [float(np.median(f.full)) for f in full], [float(np.median(f.marked)) for f in partial]
    if min(len(objects), len(marks)) > 2 and np.median(objects) < 0.8 * np.median(marks):
        areas = f"objects in masks/ are smaller ({np.median(objects):.0f} pixels) than marks in partial/"
        remedy = "if the two folders are swapped, rename them."
        warning(report, "swapped", folder.path, f"{areas} ({np.median(marks):.0f}); {remedy}")
        return
    for i in misfits(marks, objects):
        remedy = f"if every object is outlined, move it to {folder.path / 'masks'}."
        like = (
            f"like objects of full masks ({np.median(objects):.0f}) and not like other marks ({np.median(marks):.0f})"
        )
        wrong = f"its marks are of {marks[i]:.0f} pixels, {like}; {remedy}"
        warning(report, "full-among-partial", _path(partial[i].entry.partial), wrong)
    for i in misfits(objects, marks or [np.median(objects) / 4]):
        remedy = f"if these are marks, move it to {folder.path / 'partial'}."
        wrong = f"its objects are of {objects[i]:.0f} pixels, others of {np.median(objects):.0f}; {remedy}"
        warning(report, "partial-among-full", _path(full[i].entry.full), wrong)


def _inspect_strong(folder: Folder, facts: Sequence[Facts], report: Report) -> None:
    """What the training images with full masks do not show."""
    training = [f for f in facts if f.entry.split == "train"]
    strong = [f for f in training if f.entry.full is not None]
    if not strong:
        return
    names = folder.project.class_names if folder.classes is not None else ()
    for name, count in zip(names or ("",), np.sum([f.outlined for f in strong], axis=0), strict=False):
        of_class = f" of class {name}" if name else ""
        if count == 0:
            wrong = f"no full mask of a training image shows an object{of_class}; outline an image that has one."
            error(report, "class-absent", folder.path, wrong)
        elif count < _FEW:
            told = f"only {count} object{'s' if count > 1 else ''}{of_class} outlined in training images"
            remedy = f"outline at least {_FEW}, for their size and what marks cover of them to be known."
            warning(report, "few-strong", folder.path, f"{told}; {remedy}")
    weak = any(f.entry.full is None for f in training)
    if weak and not any(f.entry.partial for f in strong):
        wrong = "no outlined training image has marks in partial/, so what your marks cover of an object is a guess"
        warning(report, "strong-unmarked", folder.path, f"{wrong}; mark the objects of those images as well.")


def _path(path: pathlib.Path | None) -> pathlib.Path:
    assert path is not None
    return path
