"""A quick look at an annotated folder, for the choice of settings: number and sizes of objects and images."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from rams_jax.annotations import AnnotationError, read_image, read_instances
from rams_jax.datasets.findings import stop
from rams_jax.datasets.layout import Entry, open_folder

_MOST = 100  # full masks that are read


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a folder holds."""

    class_names: tuple[str, ...]  # () = one class without a name
    channels: tuple[int, ...]  # that the network should see
    strokes: tuple[str, ...]  # auxiliary tasks that somebody drew strokes for
    outlined: int  # training images with a full mask
    marked: int  # training images with marks only
    diameters: tuple[np.ndarray, ...]  # float[objects] of each class, rising: of discs of the same area, pixels
    several: bool  # some image shows more than one object
    height: int  # of the images, median, pixels
    width: int
    largest: int  # pixels of the largest image


def survey(path: pathlib.Path | str, seed: int) -> Survey:
    """Reads up to a hundred full masks of training images, evenly spread, and one image.

    Objects that the edge of the image cuts count only where a class has no others.

    Args:
      path: laid out as `datasets.folder` says.
      seed: of the split by chance.

    Raises:
      AnnotationError: the folder or one of the files that were read cannot be used.
    """
    folder = open_folder(path, seed, stop)
    assert folder is not None  # `stop` has raised otherwise
    training = [entry for entry in folder.entries if entry.split == "train"]
    outlined = [entry for entry in training if entry.full is not None]
    count = max(1, len(folder.project.class_names))
    whole: list[list[float]] = [[] for _ in range(count)]
    cut: list[list[float]] = [[] for _ in range(count)]
    sizes, several = [], False
    for entry in outlined[:: -(-len(outlined) // _MOST)]:
        full = _full(entry)
        sizes.append(full.shape)
        listed = (folder.classes or {}).get(entry.name, {})
        rim = np.concatenate([full[0], full[-1], full[:, 0], full[:, -1]])
        ids, areas = np.unique(full[full > 0], return_counts=True)
        several |= len(ids) > 1
        for index, area, is_cut in zip(ids.tolist(), areas.tolist(), np.isin(ids, rim), strict=True):
            (cut if is_cut else whole)[listed.get(index, 1) - 1].append(2 * np.sqrt(area / np.pi))
    diameters = tuple(np.sort(a or b) for a, b in zip(whole, cut, strict=True))
    if not any(len(d) for d in diameters):
        raise AnnotationError(f"{path}: no full mask of a training image shows an object; outline one that has some.")
    channels = folder.project.channels or tuple(range(read_image(outlined[0].image).shape[2]))
    return Survey(
        class_names=folder.project.class_names,
        channels=channels,
        strokes=tuple(sorted({task for entry in training for task in entry.strokes})),
        outlined=len(outlined),
        marked=len(training) - len(outlined),
        diameters=tuple(d for d in diameters if len(d)),
        several=several,
        height=int(np.median([h for h, _ in sizes])),
        width=int(np.median([w for _, w in sizes])),
        largest=max(h * w for h, w in sizes),
    )


def _full(entry: Entry) -> np.ndarray:
    assert entry.full is not None
    return read_instances(entry.full)
