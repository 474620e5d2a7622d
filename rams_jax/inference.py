"""A trained network over many images: what is written of each, resumable, and one bad image does not stop the rest."""

from __future__ import annotations

import csv
import dataclasses
import errno
import importlib
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tqdm

from rams_jax import maps
from rams_jax.annotations import AnnotationError, read_image, read_pixel_size
from rams_jax.measure import measure
from rams_jax.network import Network, analyse, digest, layers
from rams_jax.overlay import overlay
from rams_jax.predict import tiling
from rams_jax.results import TABLE, InferenceError, claim, write_table, write_whole

FORMATS = ("tiff", "ome-zarr")
_LARGE = 4_000_000  # pixels from which an image has a progress bar of its own


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is made of each image, and how."""

    format: str = "tiff"  # of instance maps, one of FORMATS
    probabilities: bool = False
    overlays: bool = True
    halo: int | None = None  # see `network.analyse`
    tile: int = 0  # see `network.analyse`
    pixel_size: float | None = None  # micrometres; None: what each file says


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the images."""

    finished: int
    skipped: int  # finished before
    failures: tuple[str, ...]  # a sentence for each bad image
    notes: tuple[str, ...]  # what the user should know


def infer(
    network: Network, base: pathlib.Path, images: Mapping[str, pathlib.Path], out: pathlib.Path, wanted: Wanted
) -> Outcome:
    """Segments images and writes what is wanted of each; what is there already is neither made again nor touched.

    `out` receives, for an image NAME, `instances/NAME.tif` (or `.ome.zarr`), `measurements/NAME.csv`,
    `overlays/NAME.png` and `probabilities/NAME.ome.tif`; `measurements.csv` of all images; and `predict.json`, which
    says what made them. A file is there whole or not at all.

    Args:
      network: of `network.load_network`.
      base: of `results.find_images`, as are `images`.
      out: new, empty, or of an earlier call with the same network, folder of images, halo and pixel size.

    Raises:
      InferenceError: `out` cannot be used, or a package is missing.
      TileError: a tile too small.
      OSError: the disk is full.
    """
    if wanted.format == "ome-zarr":
        try:
            importlib.import_module("zarr")
        except ImportError:
            raise InferenceError("The format ome-zarr needs the package zarr; install it: pip install zarr.") from None
    tiling(network.model.settings, wanted.tile)  # a mistake in it is not the images'
    claim(
        out,
        {"network": digest(network), "images": str(base), "halo": wanted.halo, "pixel_size": wanted.pixel_size},
    )
    missing = {name: path for name, path in images.items() if not all(t.exists() for t in _targets(out, name, wanted))}
    skipped = len(images) - len(missing)
    failures: list[str] = []
    sizes: list[float | None] = []
    cut: list[str] = []
    with tqdm.tqdm(total=len(images), initial=skipped, unit="image", mininterval=_interval()) as bar:
        for name, path in missing.items():
            try:
                size, count = _process(network, path, path.relative_to(base).as_posix(), out, name, wanted)
            except Exception as error:  # whatever it is, the other images need not suffer
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                failures.append(_sentence(path, error))
            else:
                sizes.append(size)
                cut += [f"{name} ({count})"] if count else []
            bar.update()
    notes = _notes(network, sizes, cut)
    if not write_table(out):
        notes.append(f"{out / TABLE}: was changed by hand and is not overwritten; move it and give the command again.")
    return Outcome(len(missing) - len(failures), skipped, tuple(failures), tuple(notes))


def _process(
    network: Network, path: pathlib.Path, file: str, out: pathlib.Path, name: str, wanted: Wanted
) -> tuple[float | None, int]:
    """Makes the files of an image. Returns its pixel size, if known, and how many objects the halo cut off."""
    image = read_image(path)
    stated = read_pixel_size(path)
    size = wanted.pixel_size or (stated if stated != 1.0 else None)  # 1.0 is also what files without one say
    small = image.shape[0] * image.shape[1] < _LARGE
    with tqdm.tqdm(
        total=image.shape[0] * image.shape[1],
        desc=path.name,
        unit="pixel",
        unit_scale=True,
        leave=False,
        disable=small,
        mininterval=_interval(),
    ) as bar:
        found = analyse(
            network, image, halo=wanted.halo, tile=wanted.tile, keep=wanted.probabilities, progress=bar.update
        )

    def instances(target: pathlib.Path) -> None:
        write = maps.write_tiff if wanted.format == "tiff" else maps.write_zarr
        write(target, found.instances, size)

    def probabilities(target: pathlib.Path) -> None:
        assert found.probabilities is not None
        maps.write_probabilities(target, found.probabilities, layers(network), size)

    def overlays(target: pathlib.Path) -> None:
        target.write_bytes(overlay(image[..., list(network.channels)], found.instances, found.classes))

    def measurements(target: pathlib.Path) -> None:
        table = measure(found.instances, image, found.classes, network.class_names, size)
        _write_rows(target, {"file": [file] * len(table["id"])} | table)

    writers = {write.__name__: write for write in (instances, probabilities, overlays, measurements)}
    for target in _targets(out, name, wanted):
        if not target.exists():
            write_whole(target, writers[target.relative_to(out).parts[0]])
    return size, found.cut


def _targets(out: pathlib.Path, name: str, wanted: Wanted) -> list[pathlib.Path]:
    """The files made of an image; the first part of their path says what they hold."""
    ending = "tif" if wanted.format == "tiff" else "ome.zarr"
    return [
        out / "instances" / f"{name}.{ending}",
        *([out / "probabilities" / f"{name}.ome.tif"] if wanted.probabilities else []),
        *([out / "overlays" / f"{name}.png"] if wanted.overlays else []),
        out / "measurements" / f"{name}.csv",
    ]


def _write_rows(path: pathlib.Path, table: Mapping[str, Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        for row in zip(*table.values(), strict=True):
            writer.writerow("" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in row)


def _sentence(path: pathlib.Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if text.startswith(str(path)):
        return text
    return f"{path}: {text}" if isinstance(error, AnnotationError) else f"{path}: {type(error).__name__}: {text}"


def _notes(network: Network, sizes: Sequence[float | None], cut: Sequence[str]) -> list[str]:
    """Sentences on what may be wrong without being an error."""
    notes = []
    unknown = sum(size is None for size in sizes)
    if unknown:
        notes.append(
            f"{unknown} of {len(sizes)} images do not say how large a pixel is, so columns in micrometres are empty "
            "there; --pixel_size=0.5 would say it, with a new --out."
        )
    known = [size for size in sizes if size is not None]
    trained = network.pixel_size
    far = [size for size in known if trained != 1.0 and not 0.75 <= size / trained <= 1.33]
    if far:
        notes.append(
            f"{len(far)} images have pixels of {min(far):.3g} to {max(far):.3g} micrometres, but the network was "
            f"trained on {trained:.3g}: objects appear to it in another size; rescale the images."
        )
    if cut:
        notes.append(
            f"Objects larger than the halo were cut off in {', '.join(cut[:5])}{', ...' if len(cut) > 5 else ''}; give "
            "a larger --halo, and a new --out."
        )
    return notes


def _interval() -> float:
    """Seconds between two states of a progress bar: where nobody watches, a line now and then."""
    return 0.5 if sys.stderr.isatty() else 15.0
