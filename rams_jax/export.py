"""A trained network for programs that know nothing of this one: StableHLO and ONNX, each compared with the network."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from rams_jax.annotations import normalise
from rams_jax.model import MultiTaskUNet, forward, multiple, predictions
from rams_jax.network import Network, digest, layers

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}  # of a probability, by the dtype of the activations
_OUTPUTS = ("segmentation", "approximation", "auxiliary")
_DESCRIPTION, _STABLEHLO, _ONNX = "export.json", "network.stablehlo", "network.onnx"


class ExportError(ValueError):
    """The network cannot be exported; the message is one sentence that says why and what to do."""


class ParityError(ExportError):
    """What was exported is not the network."""


# Takes image and inside, gives p, q and s.
_Program = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def export_network(network: Network, out: pathlib.Path, side: int = 0) -> dict[str, float]:
    """Writes `network.stablehlo`, for images of any size, and `export.json`, which says how to use it.

    Nothing is written unless what was exported agrees with the network on random images.

    Args:
      out: a new or empty folder.
      side: of the square tiles for which `network.onnx` is written too, pixels; 0 for none.

    Returns:
      By file name, the largest difference of a probability between what was exported and the network.

    Raises:
      ExportError: the folder is not empty, or a package is missing.
      ParityError: an export differs from the network by more than rounding.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out}: exists already and is not overwritten; give a new or empty folder as --out.")
    step, channels = multiple(network.model.settings), len(network.channels)
    if side % step:
        raise ExportError(f"Tiles of {side} pixels are no multiple of {step}, as this network needs them.")
    for package in ("flatbuffers", *(("jax2onnx", "onnxruntime") if side else ())):
        try:
            with _silence():
                importlib.import_module(package)
        except ImportError:
            raise ExportError(f"This needs the package {package}; install it: pip install {package}.") from None
    files: dict[str, bytes] = {}
    differences: dict[str, float] = {}
    files[_STABLEHLO] = _to_stablehlo(network, step, channels)
    exported = jax_export.deserialize(bytearray(files[_STABLEHLO]))
    found = [
        _difference(network, lambda x, i: [np.asarray(y) for y in exported.call(x, i)], shape, np.bool_)
        for shape in ((1, 4 * step, 8 * step, channels), (2, 13 * step, 5 * step, channels))
    ]
    differences[_STABLEHLO] = float(np.max(found))  # NaN if one is
    if side:
        files[_ONNX] = _to_onnx(network, side, channels)
        differences[_ONNX] = _difference(network, _onnx_program(files[_ONNX]), (2, side, side, channels), np.float32)
    allowed = _TOLERANCES[network.model.settings.dtype]
    for name, difference in differences.items():
        if not difference <= allowed:
            raise ParityError(
                f"{name} differs from the network by {difference:.1e}, more than {allowed:.0e}; not written."
            )
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    (out / _DESCRIPTION).write_text(
        json.dumps(_describe(network, differences, side), indent=1) + "\n", encoding="utf-8"
    )
    return differences


def _apply(model: MultiTaskUNet, params: Any) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    def probabilities(image: jax.Array, inside: jax.Array) -> tuple[jax.Array, ...]:
        found = predictions(forward(model, params, image, inside > 0))
        return tuple(x for x in jax.tree.leaves(found) if x.shape[-1])  # no third one without an auxiliary task

    return probabilities


def _to_stablehlo(network: Network, step: int, channels: int) -> bytes:
    batch, height, width = jax_export.symbolic_shape("batch, height, width")
    shape = (batch, step * height, step * width)
    image = jax.ShapeDtypeStruct((*shape, channels), jnp.float32)
    inside = jax.ShapeDtypeStruct(shape, jnp.bool_)
    program = jax.jit(_apply(network.model, network.params))
    return bytes(jax_export.export(program, platforms=PLATFORMS)(image, inside).serialize())


def _to_onnx(network: Network, side: int, channels: int) -> bytes:
    """For any number of tiles of one size; activations are float32, for few run times know bfloat16."""
    model = network.model.clone(settings=dataclasses.replace(network.model.settings, dtype="float32"))
    import jax2onnx

    with _silence():
        exported = jax2onnx.to_onnx(
            _apply(model, network.params),
            [("batch", side, side, channels), ("batch", side, side)],
            input_names=["image", "inside"],
            output_names=list(_OUTPUTS[: 3 if network.model.auxiliary else 2]),
        )
    return exported.SerializeToString()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The converter reports every layer, and every plugin that does not suit the versions installed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx_program(content: bytes) -> _Program:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image, inside: session.run(None, {"image": image, "inside": inside})


def _difference(network: Network, program: _Program, shape: tuple[int, ...], dtype: Any) -> float:
    """Largest difference of a probability on random images of this shape [B, H, W, C], partly padding."""
    rng = np.random.default_rng(0)
    image = rng.normal(0.3, 0.5, shape).astype(np.float32)
    inside = np.ones(shape[:3], bool)
    inside[-1, -shape[1] // 4 :] = False
    expected = jax.jit(_apply(network.model, network.params))(image, inside)
    found = program(image, inside.astype(dtype))
    differences = [np.abs(np.asarray(e) - f).max() for e, f in zip(expected, found, strict=True)]
    return float(np.max(differences))  # NaN if one is


def _describe(network: Network, differences: dict[str, float], side: int) -> dict[str, Any]:
    step, channels = multiple(network.model.settings), len(network.channels)
    lowest, highest = normalise(np.array([[[-1e9], [1e9]]]).reshape(1, 2, 1), np.array([[0.0], [1.0]])).ravel()
    names = layers(network)
    ends = np.cumsum([network.model.classes, network.model.classes, network.model.auxiliary])
    described: dict[str, Any] = {
        "network": digest(network),
        "jax": jax.__version__,
        "files": {
            _STABLEHLO: {
                "use": "import jax.export; segmentation, approximation, *auxiliary = "
                f"jax.export.deserialize(bytearray(open({_STABLEHLO!r}, 'rb').read())).call(image, inside)",
                "platforms": PLATFORMS,
                "sizes": f"any batch; height and width are multiples of {step}: pad, and set inside to 0 there",
                "largest_difference": differences[_STABLEHLO],
            }
        },
        "inputs": {
            "image": f"float32[batch, height, width, {channels}], normalised",
            "inside": f"[batch, height, width], 1 in the image, 0 where padded; bool, but float32 in {_ONNX}",
        },
        "outputs": {
            name: {"dtype": "float32", "shape": "[batch, height, width, layers]", "layers": names[end - len_ : end]}
            for name, end, len_ in zip(_OUTPUTS, ends, np.diff(ends, prepend=0), strict=True)
            if len_
        },
        "normalisation": {
            "channels": network.channels,
            "percentiles": network.percentiles,
            "lowest": float(lowest),
            "highest": float(highest),
            "text": "take these channels of the image, in this order; scale each so that these percentiles of its "
            "intensities become 0 and 1; cut what lies below lowest or above highest",
        },
        "foreground": "mean of segmentation and approximation" if network.averaged else "segmentation",
        "instances": dataclasses.asdict(network.instances),
        "class_names": network.class_names,
        "pixel_size_micrometres": network.pixel_size,
    }
    if side:
        described["files"][_ONNX] = {
            "sizes": f"any batch; height and width are {side}",
            "largest_difference": differences[_ONNX],
        }
    return described
