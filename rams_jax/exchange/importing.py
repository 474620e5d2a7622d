"""Annotations of other tools into the folder format. Everything is checked before anything is written."""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tqdm

from rams_jax.annotations import (
    AnnotationError,
    check_largest_id,
    read_image,
    read_instances,
    read_pixel_size,
    write_instances,
)
from rams_jax.exchange import FOLDERS
from rams_jax.exchange.agreement import marks_to_objects, objects_to_marks, outside, renumbered
from rams_jax.exchange.project import Classes, Project, extended_classes, extended_project, read_project
from rams_jax.exchange.reading import annotation_files, image_files, image_name, match, read
from rams_jax.exchange.shapes import Drawing, Shape, draw_instances, draw_strokes

_OTHER = {"full": "partial", "partial": "masks"}  # the folder with the same objects
_MOST_MISTAKES = 20  # that are told at once

Images = Mapping[str, Sequence[pathlib.Path]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to import, and how."""

    kind: str  # of annotation: a key of FOLDERS
    form: str | None  # of the files, one of FORMATS; None: found from each file
    width: float  # of lines and points, pixels
    only: tuple[str, ...]  # classes that are imported; empty: all
    class_name: str | None  # of objects that carry none


@dataclasses.dataclass(frozen=True)
class Imported:
    """The annotation of one image, or of all."""

    images: int = 0
    objects: int = 0  # 0 for strokes
    classes: Classes = dataclasses.field(default_factory=dict)  # of objects that classes.csv does not have yet
    pixel_sizes: tuple[float, ...] = ()  # micrometres; 0 where the image does not say it
    empty: tuple[str, ...] = ()  # images without objects
    warnings: tuple[str, ...] = ()

    def __add__(self, other: Imported) -> Imported:
        return Imported(
            self.images + other.images,
            self.objects + other.objects,
            {**self.classes, **other.classes},
            self.pixel_sizes + other.pixel_sizes,
            self.empty + other.empty,
            self.warnings + other.warnings,
        )


def import_annotations(
    images: pathlib.Path, annotations: pathlib.Path, out: pathlib.Path, settings: Settings
) -> Imported:
    """Brings annotations into a folder that `datasets.folder` reads.

    Writes NAME.tif into the folder of the kind, such as masks/ or partial/, and where objects have classes classes.csv
    (name, id, class) and project.toml (class_names, pixel_size); copies the annotated images to images/. Nothing is
    overwritten. If an image has a full and a partial map, the objects of the second one get the ids of the first.

    Args:
      images: an image, or a folder of them.
      annotations: a file, or a folder of them; they find their image by name, or by the name inside.
      out: the folder, made if missing.

    Raises:
      AnnotationError: what hinders, a line with a sentence for each mistake; nothing is written then.
    """
    available = image_files(images)
    groups = _grouped(annotation_files(annotations, settings.form), available)
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnnotationError(f"{out}: cannot be made ({error.strerror}); name another folder with --out.") from None
    mistakes: list[str] = []
    sources: dict[str, str] = {}  # by image
    total = Imported()
    try:
        with tempfile.TemporaryDirectory(prefix=".importing-", dir=out) as aside:
            staged, project = pathlib.Path(aside), read_project(out)
            for drawing, alone in _drawings(groups, settings.form, mistakes):
                name = match(drawing.names, available)
                if name is None and alone and len(available) == 1:
                    name = next(iter(available))
                total += Imported(warnings=drawing.warnings)
                if name is None:
                    text = f"{drawing.source}: belongs to no image in {images} and was left out; name it as its image."
                    total += Imported(warnings=(text,))
                    continue
                try:
                    if name in sources:
                        raise AnnotationError(
                            f"{drawing.source}: {name} is annotated in {sources[name]} too; keep one."
                        )
                    sources[name] = drawing.source
                    total += _stage(name, available[name], drawing, project, staged, settings)
                except AnnotationError as error:
                    mistakes.append(str(error))
            if not total.images and not mistakes:
                mistakes += [*total.warnings, f"{annotations}: nothing was found to import for the images in {images}."]
            if mistakes:
                lines = "\n".join(mistakes).splitlines()
                rest = [f"{len(lines) - _MOST_MISTAKES} more mistakes."] if len(lines) > _MOST_MISTAKES else []
                raise AnnotationError("\n".join(lines[:_MOST_MISTAKES] + rest))
            total += _describe(project, staged, total)
            _move(staged, out)
    except OSError as error:
        raise AnnotationError(f"{out}: cannot be written ({error.strerror}); name another folder with --out.") from None
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds what was imported
                out.rmdir()
    return total


def _grouped(files: Sequence[pathlib.Path], images: Images) -> list[list[pathlib.Path]]:
    """Files that are read together: single ROIs of the same image, which Fiji saves one a file."""
    groups: dict[object, list[pathlib.Path]] = {}
    for file in files:
        single = file.suffix.lower() == ".roi"
        name = next(iter(images)) if len(images) == 1 else match((file.stem,), images)
        groups.setdefault(("rois", name) if single and name else file, []).append(file)
    return list(groups.values())


def _drawings(
    groups: Sequence[Sequence[pathlib.Path]], form: str | None, mistakes: list[str]
) -> Iterator[tuple[Drawing, bool]]:
    """Reads file after file, and says of each drawing if it is the only one; mistakes are added to `mistakes`."""
    for paths in tqdm.tqdm(groups, unit="file", delay=2, disable=None):
        try:
            found = read(paths, form)
        except AnnotationError as error:
            mistakes.append(str(error))
            continue
        yield from ((drawing, len(groups) == len(found) == 1) for drawing in found)


def _stage(
    name: str,
    files: Sequence[pathlib.Path],
    drawing: Drawing,
    project: Project,
    staged: pathlib.Path,
    settings: Settings,
) -> Imported:
    """Writes the map of one image, and the image itself, aside.

    Raises:
      AnnotationError: whatever keeps it from being imported.
    """
    if len(files) > 1:
        raise AnnotationError(f"{files[0]}: {files[1].name} has the same name; keep one of the two.")
    image, folder = files[0], FOLDERS[settings.kind]
    for old in _of(name, project.folder / folder):
        raise AnnotationError(f"{old}: exists already and is not overwritten; move it away to import {name} again.")
    size = read_image(image).shape[:2]
    drawn_on = drawing.size if drawing.labels is None else drawing.labels.shape
    if drawn_on is not None and tuple(drawn_on) != size:
        raise AnnotationError(
            f"{drawing.source}: is for {drawn_on[0]} x {drawn_on[1]} pixels, but {image.name} has {size[0]} x "
            f"{size[1]}; annotate the image at its own size."
        )
    if settings.only and drawing.labels is not None:
        raise AnnotationError(f"{drawing.source}: a label image holds no classes to choose from; leave out --only.")
    shapes = [s for s in drawing.shapes if not settings.only or s.class_name in settings.only]
    # Whoever saved the outlines of an image and drew none says that it shows no object.
    empty = settings.kind == "full" and not (drawing.shapes or drawing.warnings or settings.only)
    if drawing.labels is None and not shapes and not empty:
        of = f" of class {' or '.join(settings.only)}" if settings.only else ""
        return Imported(warnings=(f"{drawing.source}: holds no shapes{of}; {name} was left out.",))
    classes: dict[int, str] = {}
    warnings: list[str] = []
    objects = 0
    if settings.kind in _OTHER:
        values, classes, warnings = _objects(name, drawing, shapes, size, project, settings)
        objects = len(np.unique(values[values > 0]))
    elif drawing.labels is None:
        values = draw_strokes(drawing.source, shapes, size, settings.width)
    else:
        values = (drawing.labels > 0).astype(np.int32)
    pixel_size = read_pixel_size(image, otherwise=0.0)
    (staged / folder).mkdir(exist_ok=True)
    write_instances(staged / folder / f"{name}.tif", values, pixel_size or 1.0)
    _stage_image(name, image, project.folder, staged)
    without = (name,) if settings.kind == "full" and not objects else ()
    return Imported(1, objects, {name: classes} if classes else {}, (pixel_size,), without, tuple(warnings))


def _objects(
    name: str, drawing: Drawing, shapes: Sequence[Shape], size: tuple[int, int], project: Project, settings: Settings
) -> tuple[np.ndarray, dict[int, str], list[str]]:
    """The instance map, the classes of its objects that classes.csv does not have yet, and warnings."""
    source = drawing.source
    if drawing.labels is None:
        width = None if settings.kind == "full" else settings.width
        values, by_id, warnings = draw_instances(source, shapes, size, width)
    else:
        values, warnings = drawing.labels, []
        check_largest_id(source, settings.kind, values)
        by_id = {number: Shape(f"object {number}") for number in np.unique(values[values > 0]).tolist()}
    labels = {number: shape.label for number, shape in by_id.items()}
    ids = {number: number for number in by_id}
    for path in _of(name, project.folder / _OTHER[settings.kind]):
        other = read_instances(path)
        if other.shape != size:
            raise AnnotationError(
                f"{path}: {other.shape[0]} x {other.shape[1]} pixels, but its image has another size."
            )
        if settings.kind == "partial":
            ids = marks_to_objects(source, values, other, labels)
            leaving = outside(renumbered(values, ids), other, {ids[number]: labels[number] for number in ids})
        else:
            ids = objects_to_marks(source, values, other, labels)
            marks = {int(number): f"mark {number}" for number in np.unique(other)}
            leaving = outside(other, renumbered(values, ids), marks)
        warnings += [f"{source}: {sentence}; correct the mark or the mask." for sentence in leaving]
    return renumbered(values, ids), _classes(name, drawing.source, by_id, ids, project, settings), warnings


def _classes(
    name: str,
    source: str,
    by_id: Mapping[int, Shape],
    ids: Mapping[int, int],
    project: Project,
    settings: Settings,
) -> dict[int, str]:
    """The classes of objects that classes.csv does not have yet; {} where no class is known anywhere.

    Raises:
      AnnotationError: an object without class beside others with one, or of two different classes.
    """
    names, written = project.class_names, project.classes.get(name, {})
    default = settings.class_name or (names[0] if project.classes and len(names) == 1 else None)
    known = dict(written)
    new: dict[int, str] = {}
    without = []
    for number, shape in by_id.items():
        given = shape.class_name or default
        before = known.setdefault(ids[number], given or "")
        if given is None:
            without += [] if before else [shape.label]
        elif before and before != given:
            raise AnnotationError(
                f"{source}: {shape.label} is of class {given}, but object {ids[number]} of {name} is of class "
                f"{before}; make them agree."
            )
        if given and ids[number] not in written:
            known[ids[number]] = new[ids[number]] = given
    if without and (new or len(names) > 1):
        raise AnnotationError(
            f"{source}: {without[0]} has no class, but others have; give it one in your tool, or say which class all "
            "such objects are with --class_name=NAME."
        )
    return new


def _stage_image(name: str, image: pathlib.Path, out: pathlib.Path, staged: pathlib.Path) -> None:
    for old in _of(name, out / "images"):
        if not filecmp.cmp(old, image, shallow=False):
            raise AnnotationError(f"{old}: is another image than {image}; rename one of them.")
        return
    (staged / "images").mkdir(exist_ok=True)
    shutil.copyfile(image, staged / "images" / image.name)


def _describe(project: Project, staged: pathlib.Path, total: Imported) -> Imported:
    """Writes classes.csv and project.toml aside, where there is something to add; returns warnings."""
    warnings = []
    if total.empty:
        names = ", ".join(total.empty[:5]) + (f" and {len(total.empty) - 5} others" if len(total.empty) > 5 else "")
        warnings.append(f"{len(total.empty)} images come without any object, as images that show none: {names}.")
    if total.classes:
        text = extended_classes(project.folder, total.classes)
        (staged / "classes.csv").write_text(text, encoding="utf-8")
    found = dict.fromkeys(name for objects in total.classes.values() for name in objects.values())
    new = [name for name in found if name not in project.class_names]
    if new:
        same = len(set(total.pixel_sizes)) == 1
        pixel_size = total.pixel_sizes[0] if same and total.pixel_sizes[0] > 0 else None
        text = extended_project(project.folder, [*project.class_names, *new], pixel_size)
        (staged / "project.toml").write_text(text, encoding="utf-8")
    if new and project.class_names:
        warnings.append(f"{project.folder / 'project.toml'}: new in class_names: {', '.join(new)}.")
    return Imported(warnings=tuple(warnings))


def _move(staged: pathlib.Path, out: pathlib.Path) -> None:
    """Puts everything into its place; the two tables are exchanged for their extended ones."""
    files = sorted(file for file in staged.rglob("*") if file.is_file())
    for file in files:
        place = out / file.relative_to(staged)
        if place.exists() and place.parent != out:
            raise AnnotationError(f"{place}: exists already and is not overwritten; move it away.")
    for file in files:
        place = out / file.relative_to(staged)
        place.parent.mkdir(exist_ok=True)
        file.replace(place)


def _of(name: str, folder: pathlib.Path) -> list[pathlib.Path]:
    """The file of an image in one of the folders, if there is one."""
    if not folder.is_dir():
        return []
    return [file for file in sorted(folder.iterdir()) if file.is_file() and image_name(file.name) == name]
