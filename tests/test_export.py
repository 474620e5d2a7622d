"""Exported networks agree with the network, on sizes they have not seen, and say so; what does not agree is refused."""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from trained import blob_network, blobs, small_network

from rams_jax import export
from rams_jax.annotations import normalise
from rams_jax.export import ExportError, ParityError, export_network
from rams_jax.network import save_network
from rams_jax.predict import predict
from rams_jax.types import ModelSettings

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Reads the export as somebody else would: without this program.
READER = """
import sys
import jax.export, numpy as np
with open(sys.argv[1] + "/network.stablehlo", "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
found = exported.call(np.load(sys.argv[1] + "/image.npy"), np.load(sys.argv[1] + "/inside.npy"))
np.savez(sys.argv[1] + "/found.npz", *found)
assert not any(name.startswith(("rams_jax", "flax")) for name in sys.modules)
"""


def test_stablehlo_is_the_network_for_a_reader_without_this_program(tmp_path):
    network = blob_network()
    differences = export_network(network, tmp_path / "out")
    assert set(differences) == {"network.stablehlo"} and differences["network.stablehlo"] < 1e-6
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["export.json", "network.stablehlo"]
    image = normalise(blobs(3, (38, 46))[0])
    padded = np.zeros((2, 38, 60, 1), np.float32)
    padded[:, :, :46] = image
    inside = np.zeros((2, 38, 60), bool)
    inside[:, :, :46] = True
    np.save(tmp_path / "out" / "image.npy", padded)
    np.save(tmp_path / "out" / "inside.npy", inside)
    subprocess.run([sys.executable, "-c", READER, str(tmp_path / "out")], check=True, timeout=120)
    (expected,) = predict(network.model, network.params, [image])
    with np.load(tmp_path / "out" / "found.npz") as found:
        for name, values in zip(("arr_0", "arr_1", "arr_2"), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(found[name][1, :, :46], values, atol=1e-5)
    assert expected.segmentation.std() > 0.1


@pytest.mark.parametrize("auxiliary", [(), ("separation", "boundary")])
def test_the_description_says_how_to_use_it(tmp_path, auxiliary):
    network = small_network(auxiliary=auxiliary)
    difference = export_network(network, tmp_path / "out")["network.stablehlo"]
    said = json.loads((tmp_path / "out" / "export.json").read_text())
    assert said["files"]["network.stablehlo"]["largest_difference"] == difference < 1e-4
    assert said["normalisation"]["channels"] == [0, 2] and said["normalisation"]["percentiles"] == [2.0, 99.0]
    assert (said["normalisation"]["lowest"], said["normalisation"]["highest"]) == (-4.0, 4.0)
    layers = {name: output["layers"] for name, output in said["outputs"].items()}
    expected = {task: [f"{task} class0", f"{task} class1"] for task in ("segmentation", "approximation")}
    assert layers == expected | ({"auxiliary": list(auxiliary)} if auxiliary else {})
    exported = jax.export.deserialize(bytearray((tmp_path / "out" / "network.stablehlo").read_bytes()))
    assert len(exported.out_avals) == len(layers)
    assert [aval.shape[-1] for aval in exported.out_avals] == [len(names) for names in layers.values()]
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}


def test_low_precision_is_exported_too(tmp_path):
    settings = ModelSettings(width=4, depth=2, own_levels=1, dtype="bfloat16")
    assert export_network(small_network(settings), tmp_path / "out")["network.stablehlo"] < 3e-2


@pytest.mark.parametrize(
    ("factor", "words"), [(0.9, r"by \d\.\de-0\d, more than 1e-04; not written\."), (np.nan, "by nan")]
)
def test_an_export_that_differs_is_not_written(tmp_path, monkeypatch, factor, words):
    """That the comparison can fail: what is exported is another network."""
    params = jax.tree.map(lambda x: factor * x, blob_network().params)
    wrong = export._to_stablehlo(dataclasses.replace(blob_network(), params=params), 2, 1)
    monkeypatch.setattr(export, "_to_stablehlo", lambda *args: wrong)
    # The tests' fast compilation (conftest.py) makes numbers of NaN.
    read = export.jax_export.deserialize
    options = {"xla_backend_optimization_level": 3}
    monkeypatch.setattr(
        export.jax_export,
        "deserialize",
        lambda data: types.SimpleNamespace(call=jax.jit(read(data).call, compiler_options=options)),
    )
    with pytest.raises(ParityError, match=words):
        export_network(blob_network(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="exists already and is not overwritten"):
        export_network(blob_network(), tmp_path)
    with pytest.raises(ExportError, match="exists already"):
        export_network(blob_network(), tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_tiles_off_the_grid_and_missing_packages_get_a_sentence(tmp_path, monkeypatch):
    with pytest.raises(ExportError, match=r"Tiles of 63 pixels are no multiple of 2, as this network needs them\."):
        export_network(blob_network(), tmp_path / "out", side=63)
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match="needs the package jax2onnx; install it"):
        export_network(blob_network(), tmp_path / "out", side=64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("auxiliary", [(), ("separation",)])
def test_onnx_is_the_network_too(tmp_path, auxiliary):
    with contextlib.suppress(ImportError):
        with export._silence():
            import jax2onnx  # noqa: F401
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    network = small_network(auxiliary=auxiliary)
    differences = export_network(network, tmp_path / "out", side=32)
    assert differences["network.onnx"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "out" / "network.onnx", providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["image", "inside"]
    outputs = [x.name for x in session.get_outputs()]
    assert outputs == ["segmentation", "approximation", "auxiliary"][: 3 if auxiliary else 2]
    images = np.random.default_rng(1).normal(0.3, 0.5, (3, 32, 32, 2)).astype(np.float32)
    found = session.run(None, {"image": images, "inside": np.ones((3, 32, 32), np.float32)})
    expected = predict(network.model, network.params, list(images))
    for i, opinion in enumerate(expected):
        for a, b in zip(found, [x for x in jax.tree.leaves(opinion) if x.shape[-1]], strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-4)


def test_the_program(tmp_path):
    save_network(tmp_path / "run" / "network", blob_network())

    def launch(*options):
        command = [sys.executable, "launch/export.py", *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)

    done = launch(f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith(
        f"{tmp_path / 'out' / 'network.stablehlo'}: probabilities differ from the network's by"
    )
    for options, words in (
        (["--workdir=x"], "--out is missing"),
        (["--out=x", "--workdr=x"], "Did you mean: workdir"),
        (["--workdir=x", "--out=y", "z"], "What does z mean?"),
        (["--onnx=-1"], "--onnx=-1"),
    ):
        done = launch(*options)
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
