"""Nuclei of a scratch assay, as a TFDS builder that needs neither TensorFlow nor a download.

The images come with the pip package ndev-sampledata: ten frames of a wound that closes, 210 x 576 pixels of 0.619 um,
Hoechst and oblique bright field, with hand-corrected nuclei and cells. Here the nuclei are the objects.

Frames of a series resemble each other, so the split is by place: columns 0-275 train, 297-388 validate, 390-573 test,
cut into tiles of 52 x 46 (the last two rows are left over). A nucleus that is seen in two of these strips, followed
from frame to frame, stays in one.

Pixels are invalid where the labels cannot be trusted:
- bright Hoechst without a label (debris, dividing and overlooked nuclei): smoothed by 1 px, above the frame's Otsu
  threshold of log intensity, more than 2 px from any label, opened by a cross; widened by 3 px, labels left out;
- labels below 12 px that do not touch the edge of the frame, and slivers below 5 px that the cutting leaves in a tile;
- nuclei that belong to another strip. All three are taken out of the map, with a rim of 2 px.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import bioio
import bioio_ome_tiff
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.filters import threshold_otsu

from rams_jax.annotations import AnnotationError, limits

HEIGHT, WIDTH = 52, 46  # of a tile
STRIPS = {"train": (0, 276), "validation": (297, 389), "test": (390, 574)}  # columns: first, end
PIXEL_SIZE = 0.619  # micrometres
SPECK = 12  # pixels; smaller labels are slips of the brush
SLIVER = 5  # pixels; smaller parts of a cut nucleus are dropped
GATE = 25.0  # pixels; no nucleus moves farther between two frames
_EIGHT = np.ones((3, 3), bool)


class ScratchAssay(tfds.core.GeneratorBasedBuilder):
    """Tiles with both raw channels, the map of the nuclei, the valid mask and the frame's intensity limits."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version, from ndev-sampledata 0.0.3."}
    # Found by tensorflow-datasets itself only where importlib_resources is installed, which it does not require.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            homepage="https://github.com/ndev-kit/ndev-sampledata",
            license="BSD-3-Clause, copyright (c) 2025 Tim Monko",
            citation="""@misc{ndev_sampledata,
  author = {Monko, Tim},
  title = {ndev-sampledata: sample data for the ndev kit},
  year = {2025},
  howpublished = {\\url{https://github.com/ndev-kit/ndev-sampledata}},
}""",
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "image": tfds.features.Tensor(shape=(HEIGHT, WIDTH, 2), dtype=np.uint16),
                    "full": tfds.features.Tensor(shape=(HEIGHT, WIDTH), dtype=np.uint16),
                    "valid": tfds.features.Tensor(shape=(HEIGHT, WIDTH), dtype=np.bool_),
                    "limits": tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
                    "pixel_size": tfds.features.Scalar(dtype=np.float32),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        frames = read_frames()
        return {split: self._generate_examples(frames, split) for split in STRIPS}

    def _generate_examples(self, frames: np.ndarray, split: str) -> Iterator[tuple[str, dict]]:
        yield from tiles(frames, split)


def read_frames() -> np.ndarray:
    """The series: uint16[frame, channel, 210, 576]; channels Hoechst, oblique, nucleus ids, cell ids.

    Raises:
      AnnotationError: the package that holds it is not installed.
    """
    package = importlib.util.find_spec("ndev_sampledata")
    if package is None or package.origin is None:
        raise AnnotationError("The scratch assay is in the package ndev-sampledata; pip install ndev-sampledata.")
    path = pathlib.Path(package.origin).parent / "samples" / "scratch-assay-labeled-10T-2Ch.tiff"
    if not path.is_file():
        raise AnnotationError(f"{path}: there is no such file; pip install ndev-sampledata==0.0.3.")
    return bioio.BioImage(path, reader=bioio_ome_tiff.Reader).get_image_data("TCYX", Z=0)


def tiles(
    frames: np.ndarray, split: str, height: int = HEIGHT, width: int = WIDTH
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tiles of one split, by name: the features of `ScratchAssay`, whose tiles have the usual size."""
    first, end = STRIPS[split]
    tracks = track([frame[2] for frame in frames])
    homes = owners(tracks)
    for number, frame in enumerate(frames):
        labels = frame[2].astype(np.int32)
        trusted, valid = trust(frame[0], labels)
        strangers = np.isin(tracks[number], [t for t, home in homes.items() if home != split]) & (labels > 0)
        trusted, valid = _drop(trusted, valid, strangers & (trusted > 0))
        scale = limits(np.moveaxis(frame[:2], 0, -1))
        for row, top in enumerate(range(0, labels.shape[0] - height + 1, height)):
            for column, left in enumerate(range(first, end - width + 1, width)):
                box = np.s_[top : top + height, left : left + width]
                name = f"frame{number:02d}_row{row}_col{column}"
                full, looked_at = relabel(trusted[box], valid[box])
                yield (
                    f"{split}_{name}",
                    {
                        "name": f"{split}_{name}",
                        "image": np.moveaxis(frame[:2][(slice(None), *box)], 0, -1),
                        "full": full.astype(np.uint16),
                        "valid": looked_at,
                        "limits": scale,
                        "pixel_size": np.float32(PIXEL_SIZE),
                    },
                )


def trust(hoechst: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the labels of a frame can be believed; the rule is at the head of this file.

    Args:
      hoechst: uint16[H, W].
      labels: int32[H, W].

    Returns:
      int32[H, W] labels without specks, and bool[H, W], False where a nucleus may be that nobody labelled.
    """
    smooth = ndimage.gaussian_filter(hoechst.astype(np.float64), 1.0)
    bright = smooth > np.exp(threshold_otsu(np.log(smooth)))
    unlabelled = ndimage.binary_opening(bright & ~ndimage.binary_dilation(labels > 0, iterations=2))
    valid = ~ndimage.binary_dilation(unlabelled, iterations=3) | (labels > 0)
    at_edge = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    areas = np.bincount(labels.ravel())
    specks = np.setdiff1d(np.flatnonzero((areas > 0) & (areas < SPECK)), at_edge)
    return _drop(labels, valid, np.isin(labels, specks) & (labels > 0))


def relabel(labels: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers the connected parts of each label 1..n in a tile; slivers leave the map and become invalid."""
    full = np.zeros(labels.shape, np.int32)
    slivers = np.zeros(labels.shape, bool)
    count = 0
    for index in np.unique(labels[labels > 0]):
        pieces, number = ndimage.label(labels == index, _EIGHT)
        for piece in range(1, number + 1):
            part = pieces == piece
            if part.sum() < SLIVER:
                slivers |= part
            else:
                count += 1
                full[part] = count
    return full, _drop(full, valid, slivers)[1]


def track(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Follows nuclei through the frames: the assignment of centres with the least sum of distances, none above GATE.

    A nucleus that a frame misses may return in the next one. One that appears within GATE of a nucleus of the frame
    before, as after a division, carries on that nucleus's track: rather one track too few than a nucleus on two sides.

    Args:
      maps: integer[H, W] for each frame.

    Returns:
      int32[H, W] for each frame: the track of each pixel's nucleus, from 1; 0 outside nuclei.
    """
    known: list[tuple[int, np.ndarray, int]] = []  # track, centre and frame of what may be seen again
    result, count = [], 0
    for number, labels in enumerate(maps):
        ids = np.unique(labels[labels > 0])
        centres = np.array(ndimage.center_of_mass(labels > 0, labels, ids)).reshape(-1, 2)
        earlier = np.array([centre for _, centre, _ in known]).reshape(-1, 2)
        distances = np.linalg.norm(centres[:, None] - earlier[None], axis=-1)
        chosen = np.zeros(len(ids), np.int32)
        found = set()
        for i, j in zip(*linear_sum_assignment(np.minimum(distances, 2 * GATE)), strict=True):
            if distances[i, j] <= GATE:
                chosen[i] = known[j][0]
                found.add(j)
        for i in np.flatnonzero(chosen == 0):
            if len(known) and distances[i].min() <= GATE:
                chosen[i] = known[distances[i].argmin()][0]
            else:
                count += 1
                chosen[i] = count
        missed = [spot for j, spot in enumerate(known) if j not in found and number - spot[2] < 2]
        known = missed + [(t, centre, number) for t, centre in zip(chosen.tolist(), centres, strict=True)]
        table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
        table[ids] = chosen
        result.append(table[labels])
    return result


def owners(tracks: list[np.ndarray]) -> dict[int, str]:
    """The split that keeps each track: of the strips that it was seen in the first of test, train, validation."""
    homes: dict[int, str] = {}
    for split in ("validation", "train", "test"):
        first, end = STRIPS[split]
        for labels in tracks:
            homes |= dict.fromkeys(np.setdiff1d(labels[:, first:end], 0).tolist(), split)
    return homes


def _drop(labels: np.ndarray, valid: np.ndarray, gone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes pixels out of the map and makes them and a rim of 2 px invalid, but for the other labels."""
    labels = np.where(gone, 0, labels)
    return labels, valid & ~(ndimage.binary_dilation(gone, iterations=2) & (labels == 0)) if gone.any() else valid
