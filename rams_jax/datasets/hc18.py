"""Fetal heads in ultrasound (HC18), one ellipse an image, as a TFDS builder.

443 images of 443 patients, 135 x 200 pixels: 204 train, 44 validate, 195 test. hc18.csv beside this file lists them.
With each comes the head circumference in mm that a sonographer measured.

The labelled set has 999 images with the numbers 000 to 805, of which a local copy may hold fewer; a number is what the
set publishes of a patient. (551 women were examined, some of them in several trimesters under several numbers; which
ones is not published.) Images of one number show the same head, some the very same frame, so the first one of each
number stays: the limits of agreement of the circumference assume independent pairs. Images whose pixels are not square
(13 numbers) are left out. The numbers, in the order of their crc32, are dealt out: the first 204 train, the next 44
validate, the rest tests.

Images are halved twice: 540 x 800 pixels as published, 270 x 400 in the local copy, 135 x 200 here; always the mean of
2 x 2 pixels. The person drew a line, and the masks hold its width too; so here a pixel is head only if all of its four
are. The circumference of these masks is then 0.1 mm (standard deviation 0.1 mm) from the measured one; of the masks of
the copy, 1.2 mm.

Sources. A local copy is a folder that holds hc18/images/NAME.png, hc18/masks/NAME.png (1 in the head) and
hc18/measurements.csv (columns file, patient, pixel_width_mm, pixel_height_mm, head_circumference_mm); or one in the
form of the source, with training_set/NAME.png, training_set/NAME_Annotation.png (the line) and
training_set_pixel_size_and_HC.csv. Without a local copy these are downloaded from Zenodo; this path was tested against
a server of our own only, never against theirs, and may differ from the copy by the rounding of intensities and at the
boundary.
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from scipy import ndimage

from rams_jax.annotations import AnnotationError
from rams_jax.datasets.building import REMEDY, blocks, features, fetch, halve, read_png, row, table, unpack

URL = "https://zenodo.org/records/1327317/files/"
MEASUREMENTS = "training_set_pixel_size_and_HC.csv"
MD5 = {  # as Zenodo publishes them
    "training_set.zip": "00eb8198b9a505b2b3a6dfc740382497",
    MEASUREMENTS: "c0761518fece2bd2d2ad4218f2cd9777",
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """One image of the local copy."""

    image: np.ndarray  # uint8[270, 400]
    head: np.ndarray  # bool[270, 400]
    pixel_size: float  # millimetres
    circumference: float  # millimetres


Reader = Callable[[str], Measured]


class Hc18(tfds.core.GeneratorBasedBuilder):
    """Images with the map of the head and its measured circumference; see the head of this file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    code_path = epath.Path(__file__)  # see ScratchAssay

    def __init__(self, *, source: str = "", **settings):
        """`source` is a local copy; "" to download."""
        self._source = source
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage="https://hc18.grand-challenge.org",
            license="CC BY 4.0",
            citation="""@article{heuvel2018automated,
  author = {van den Heuvel, Thomas L. A. and de Bruijn, Dagmar and de Korte, Chris L. and van Ginneken, Bram},
  title = {Automated measurement of fetal head circumference using 2D ultrasound images},
  journal = {PLOS ONE},
  volume = {13},
  number = {8},
  pages = {e0200412},
  year = {2018},
  doi = {10.1371/journal.pone.0200412},
  note = {Images: Zenodo, doi 10.5281/zenodo.1327317},
}""",
            features=features(1),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        source = pathlib.Path(self._source) if self._source else _download(dl_manager)
        read = copy_reader(source / "hc18") if (source / "hc18").is_dir() else original_reader(source)
        return {split: self._generate_examples(read, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, read: Reader, split: str) -> Iterator[tuple[str, dict]]:
        for entry in table("hc18"):
            if entry["split"] == split:
                yield entry["name"], binned(entry["name"], read(entry["name"]))


def binned(name: str, found: Measured) -> dict:
    """The row of an image of the local copy, halved."""
    head = np.all(blocks(found.head), axis=2)
    return row(
        name,
        halve(found.image[..., None]),
        head,
        pixel_size=2000 * found.pixel_size,
        circumference=found.circumference,
    )


def copy_reader(folder: pathlib.Path) -> Reader:
    """Reads images/NAME.png, masks/NAME.png and measurements.csv of `folder`."""
    measurements = _measurements(folder / "measurements.csv", "file")

    def read(name: str) -> Measured:
        entry = _entry(measurements, name, folder / "measurements.csv")
        image, mask = (read_png(folder / part / f"{name}.png") for part in ("images", "masks"))
        return Measured(image, mask > 0, float(entry["pixel_width_mm"]), float(entry["head_circumference_mm"]))

    return read


def original_reader(source: pathlib.Path) -> Reader:
    """Reads training_set/NAME.png, training_set/NAME_Annotation.png and MEASUREMENTS, halves, and fills the line.

    Raises:
      AnnotationError: they are not there.
    """
    if not (source / "training_set").is_dir() or not (source / MEASUREMENTS).is_file():
        raise AnnotationError(
            f"{source}: holds neither hc18/images and masks nor training_set and {MEASUREMENTS}; {REMEDY}."
        )
    measurements = _measurements(source / MEASUREMENTS, "filename")

    def read(name: str) -> Measured:
        entry = _entry(measurements, f"{name}.png", source / MEASUREMENTS)
        image = read_png(source / "training_set" / f"{name}.png")
        line = read_png(source / "training_set" / f"{name}_Annotation.png") > 0
        head = np.any(blocks(filled(line)), axis=2)
        size, circumference = float(entry["pixel size(mm)"]), float(entry["head circumference (mm)"])
        return Measured(halve(image[..., None])[..., 0], head, 2 * size, circumference)

    return read


def filled(line: np.ndarray) -> np.ndarray:
    """bool[H, W]: a closed line with its inside; where the line leaves the image, its edge closes it."""
    edges = ((line[0], line[-1]), (line[:, 0], line[:, -1]))
    open_at = [tuple(int(edge.any()) for edge in pair) for pair in edges]
    inside = ndimage.binary_fill_holes(np.pad(line, open_at, constant_values=True))
    (top, _), (left, _) = open_at
    return inside[top : top + line.shape[0], left : left + line.shape[1]]


def _download(manager: tfds.download.DownloadManager) -> pathlib.Path:
    files = {name: fetch(URL + name, md5, pathlib.Path(manager.download_dir)) for name, md5 in MD5.items()}
    folder = unpack(files["training_set.zip"])
    shutil.copyfile(files[MEASUREMENTS], folder / MEASUREMENTS)
    return folder


def _measurements(path: pathlib.Path, key: str) -> dict[str, dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return {entry[key]: entry for entry in csv.DictReader(file)}
    except (OSError, KeyError) as error:
        raise AnnotationError(f"{path}: no table with the column {key!r}; the local copy is incomplete.") from error


def _entry(measurements: dict[str, dict[str, str]], name: str, path: pathlib.Path) -> dict[str, str]:
    if name not in measurements:
        raise AnnotationError(f"{path}: has no line for {name}, which hc18.csv lists; the local copy is incomplete.")
    return measurements[name]
