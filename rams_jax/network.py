"""A trained network: a folder that stands alone, and its use on new images.

The folder holds `network.json`, which describes the network in words and numbers that any program can read, and
`parameters.npz`: NumPy arrays whose names are their paths in the parameter tree. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import math
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage as ndi
from flax import traverse_util

from rams_jax import storage
from rams_jax.annotations import PERCENTILES, AnnotationError, normalise
from rams_jax.blocks import default_halo, label_rows
from rams_jax.description import FORMAT, REMEDY, NetworkError, read_description
from rams_jax.model import MultiTaskUNet, multiple
from rams_jax.predict import predict_rows, tiling
from rams_jax.types import Example, InstanceSettings, ModelSettings

_DESCRIPTION, _PARAMETERS = "network.json", "parameters.npz"
_CARD = ("method", "data", "seed", "steps", "strong", "weak", "test", "masks", "commit", "versions")


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A trained network with all that its use needs."""

    model: MultiTaskUNet
    params: Any  # pytree of float32, as `model.init` makes it
    class_names: tuple[str, ...]  # of the classes 1..K
    auxiliary: tuple[str, ...]  # names of the auxiliary tasks
    channels: tuple[int, ...]  # of an image, in this order, that the network sees
    percentiles: tuple[float, float]  # of a channel's intensities, which become 0 and 1
    averaged: bool  # segments by the mean of p and q instead of p
    instances: InstanceSettings
    pixel_size: float  # of the training images, micrometres; 1.0 where unknown
    largest_object: int  # of the training images, the longer side of its bounding box, pixels
    card: Mapping[str, Any]  # method, data, scores on the test images, versions, commit


@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """What a network finds in an image."""

    instances: np.ndarray  # int32[H, W]: 0 = background, ids 1..J without gaps, the largest first
    classes: np.ndarray  # int32[J + 1]: class of each id; classes[0] = 0
    probabilities: np.ndarray | None  # uint8[2 K + S, H, W]: p, q and s, 255 for a probability of 1; None if not kept
    cut: int  # objects cut off because they are larger than the halo; 0 in an image labelled at once


def segment(network: Network, image: np.ndarray) -> np.ndarray:
    """The objects of an image of any size, in bounded memory.

    Args:
      image: number[H, W, C], raw intensities with all the channels of the file; or [H, W].

    Returns:
      int32[H, W], 0 = background, ids 1..J without gaps, the largest first.

    Raises:
      AnnotationError: not such an image, or it holds NaN or infinite values.
    """
    return analyse(network, image).instances


def analyse(
    network: Network,
    image: np.ndarray,
    *,
    halo: int | None = None,
    tile: int = 0,
    keep: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> Segmentation:
    """As `segment`, with classes, and with the probabilities if asked for.

    Besides the image and what is returned, memory is needed for a row of tiles (`predict.predict_rows`) and a row of
    blocks (`blocks.label_rows`); for a moment, for one channel of the image in float64.

    Args:
      halo: see `blocks.label_rows`; None: from the largest object of the training images.
      tile: see `predict.tiling`.
      keep: return the probabilities.
      progress: called now and then with the number of pixels that have been predicted since.

    Raises:
      AnnotationError: as `segment`.
      TileError: a tile too small.
    """
    image = _checked(image, network.channels)
    shape, classes = image.shape[:2], network.model.classes
    between = _limits(image, network)

    def read(rows: slice, columns: slice) -> np.ndarray:
        return normalise(image[rows, columns][..., list(network.channels)], between)

    kept = np.zeros((2 * classes + network.model.auxiliary, *shape), np.uint8) if keep else None

    def arriving() -> Iterator[np.ndarray]:
        done = 0
        for rows in predict_rows(network.model, network.params, read, shape, tiling(network.model.settings, tile)):
            if kept is not None:
                kept[:, done : done + len(rows)] = np.moveaxis(np.rint(255 * rows), -1, 0)
            done += len(rows)
            progress(rows.shape[0] * rows.shape[1])
            yield rows

    around = default_halo(network.largest_object, network.instances) if halo is None else halo
    found = label_rows(arriving(), shape, classes, network.averaged, network.instances, around)
    return Segmentation(found[0], found[1], kept, found[2])


def longest(example: Example, strong: bool) -> int:
    """The longer side of the box around the largest object that training sees of an image, or its mark; pixels."""
    maps = [example.partial] + ([example.full] if strong and example.full is not None else [])
    boxes = [box for instance_map in maps for box in ndi.find_objects(instance_map) if box is not None]
    return max((side.stop - side.start for box in boxes for side in box), default=0)


def trained(
    model: MultiTaskUNet,
    params: Any,
    averaged: bool,
    instances: InstanceSettings,
    class_names: Sequence[str],
    auxiliary: Sequence[str],
    channels: Sequence[int],
    pixel_size: float,
    largest_object: int,
    summary: Mapping[str, Any],
) -> Network:
    """The network of a run that is finished.

    Args:
      params: its parameters, best the averaged ones.
      channels: of the images, that it saw.
      pixel_size: of the training images, median, micrometres.
      largest_object: `longest` of them all, pixels.
      summary: what `summary.json` holds; part of it becomes the score card.
    """
    return Network(
        model=model,
        params=jax.tree.map(np.asarray, params),
        class_names=tuple(class_names),
        auxiliary=tuple(auxiliary),
        channels=tuple(channels),
        percentiles=PERCENTILES,
        averaged=averaged,
        instances=instances,
        pixel_size=pixel_size,
        largest_object=largest_object,
        card={key: summary[key] for key in _CARD},
    )


def save_network(path: pathlib.Path | str, network: Network, replace: bool = False) -> None:
    """Writes a network into the folder `path`, which is made if missing.

    Args:
      replace: overwrite a network that is there, as a run does with its own when it is finished again.

    Raises:
      NetworkError: one is there, and is not to be replaced.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    for name in (_DESCRIPTION, _PARAMETERS):
        if (path / name).exists() and not replace:
            raise NetworkError(f"{path / name}: exists already and is not overwritten; name a new folder.")
    flat = traverse_util.flatten_dict(network.params, sep="/")
    arrays: dict[str, Any] = {name: np.asarray(value, np.float32) for name, value in flat.items()}
    content = io.BytesIO()
    np.savez(content, **arrays)
    description = {
        "format": FORMAT,
        "model": dataclasses.asdict(network.model.settings),
        "class_names": network.class_names,
        "auxiliary": {"tasks": network.auxiliary, "channels": network.model.auxiliary},
        "channels": network.channels,
        "normalisation": {"percentiles": network.percentiles},
        "averaged": network.averaged,
        "instances": dataclasses.asdict(network.instances),
        "training": {"pixel_size": network.pixel_size, "largest_object": network.largest_object},
        "parameters": {
            "count": sum(np.size(value) for value in flat.values()),
            "sha256": hashlib.sha256(content.getbuffer()).hexdigest(),
        },
        "card": _without_nan(network.card),
    }
    storage.write_whole(path / _PARAMETERS, content.getvalue())
    storage.write_json(path / _DESCRIPTION, description)  # last, because it vouches for the parameters


def load_network(path: pathlib.Path | str) -> Network:
    """Reads the network of a finished run.

    Args:
      path: the run's workdir, its folder `network`, or a copy of that folder anywhere.

    Raises:
      NetworkError: there is none; or it is damaged, or of a newer format.
    """
    path = _folder(pathlib.Path(path))
    said = read_description(path / _DESCRIPTION)
    settings = ModelSettings(**_hashable(said["model"]))
    model = MultiTaskUNet(settings, len(said["class_names"]), said["auxiliary"]["channels"])
    return Network(
        model=model,
        params=_read_parameters(path / _PARAMETERS, model, len(said["channels"]), said["parameters"]["sha256"]),
        class_names=tuple(said["class_names"]),
        auxiliary=tuple(said["auxiliary"]["tasks"]),
        channels=tuple(said["channels"]),
        percentiles=tuple(said["normalisation"]["percentiles"]),
        averaged=said["averaged"],
        instances=InstanceSettings(**_hashable(said["instances"])),
        pixel_size=float(said["training"]["pixel_size"]),
        largest_object=said["training"]["largest_object"],
        card=said["card"],
    )


def layers(network: Network) -> list[str]:
    """Names of the layers of `Segmentation.probabilities`."""
    count = network.model.auxiliary
    tasks = network.auxiliary if len(network.auxiliary) == count else [f"auxiliary {i + 1}" for i in range(count)]
    return [f"{task} {name}" for task in ("segmentation", "approximation") for name in network.class_names] + [*tasks]


def digest(network: Network) -> str:
    """SHA-256 of the parameters: what tells one network from another."""
    found = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(network.params, sep="/").items()):
        found.update(name.encode() + np.ascontiguousarray(value, np.float32).tobytes())
    return found.hexdigest()


def _checked(image: np.ndarray, channels: Sequence[int]) -> np.ndarray:
    """The image as number[H, W, C]."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or not image.size:
        raise AnnotationError(f"The image has shape {image.shape}, but must be height x width x channels.")
    if not (np.issubdtype(image.dtype, np.integer) or np.issubdtype(image.dtype, np.floating) or image.dtype == bool):
        raise AnnotationError(f"The image holds {image.dtype}, but must hold integers or floating point numbers.")
    if max(channels) >= image.shape[2]:
        raise AnnotationError(
            f"The network sees the channels {list(channels)}, counted from 0, but the image, of {image.shape[0]} x "
            f"{image.shape[1]} pixels, has {image.shape[2]}."
        )
    if np.issubdtype(image.dtype, np.floating):
        bad = sum(int((~np.isfinite(image[..., c])).sum()) for c in channels)
        if bad:
            raise AnnotationError(f"The image holds {bad} NaN or infinite values; replace them.")
    return image


def _limits(image: np.ndarray, network: Network) -> np.ndarray:
    """float32[2, C]: as `annotations.limits`, but in memory for one channel."""
    columns = [
        np.percentile(image[..., c].astype(np.float64), network.percentiles, overwrite_input=True)
        for c in network.channels
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN either: a score that is undefined becomes null."""
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _hashable(section: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and only with them settings may be static arguments of compiled functions."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}


def _folder(path: pathlib.Path) -> pathlib.Path:
    for folder in (path, path / "network"):
        if (folder / _DESCRIPTION).is_file():
            return folder
    if (path / "config.json").is_file():
        raise NetworkError(f"{path}: the run has left no network yet; give its training command again to finish it.")
    raise NetworkError(f"{path}: holds no network ({_DESCRIPTION}); give the workdir of a finished run.")


def _read_parameters(path: pathlib.Path, model: MultiTaskUNet, channels: int, sha256: str) -> Any:
    """The arrays that the model asks for, each checked before it is read."""
    side = multiple(model.settings)
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    inside = jax.ShapeDtypeStruct((1, side, side), jnp.bool_)
    expected = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image, inside), sep="/")
    try:
        if _digest(path) != sha256:
            raise NetworkError(f"{path}: is damaged, or belongs to another {_DESCRIPTION}; {REMEDY}.")
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != sorted(f"{name}.npy" for name in expected):
                raise NetworkError(f"{path}: holds other parameters than {_DESCRIPTION} describes; {REMEDY}.")
            count = sum(math.prod(value.shape) for value in expected.values())
            if 4 * count > path.stat().st_size:  # memory would be taken before it is missed
                raise NetworkError(f"{path}: is too small for the {count:,} numbers of {_DESCRIPTION}; {REMEDY}.")
            flat = {name: _read_array(archive, path, name, value.shape) for name, value in expected.items()}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{path}: cannot be read as parameters ({type(error).__name__}); {REMEDY}.") from error
    return traverse_util.unflatten_dict(flat, sep="/")


def _read_array(archive: zipfile.ZipFile, path: pathlib.Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        np.lib.format.read_magic(file)
        found, _, dtype = np.lib.format.read_array_header_1_0(file)
    if found != shape or dtype != np.float32:
        raise NetworkError(f"{path}: {name} is {dtype} {found}, but {_DESCRIPTION} asks for float32 {shape}; {REMEDY}.")
    with archive.open(f"{name}.npy") as file:
        value = np.lib.format.read_array(file, allow_pickle=False)
    if not np.isfinite(value).all():
        raise NetworkError(f"{path}: {name} holds NaN or infinite values: the training failed; train again.")
    return value


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
