"""A trained network as a folder: what comes back is what was written, and everything else gets a sentence."""

import dataclasses
import io
import json
import shutil
import zipfile

import jax
import numpy as np
import pytest
from trained import INSTANCES, blob_network, blobs, small_network

from rams_jax.annotations import PERCENTILES, AnnotationError, limits, normalise
from rams_jax.instances import label_instances
from rams_jax.network import NetworkError, analyse, digest, load_network, longest, save_network, segment, trained
from rams_jax.predict import foreground, predict
from rams_jax.types import Example, ModelSettings


@pytest.fixture
def folder(tmp_path):
    save_network(tmp_path / "network", small_network())
    return tmp_path / "network"


@pytest.mark.parametrize("auxiliary", [(), ("separation",), ("separation", "boundary")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_comes_back_is_what_was_written(tmp_path, auxiliary, dtype):
    settings = ModelSettings(width=2, depth=3, own_levels=1, dtype=dtype, mean=(0.1, 1 / 3), std=(2.0, 0.5))
    network = small_network(settings, auxiliary=auxiliary)
    save_network(tmp_path / "a" / "b", network)
    found = load_network(tmp_path / "a" / "b")
    for field in dataclasses.fields(network):
        if field.name != "params":
            assert getattr(found, field.name) == getattr(network, field.name), field.name
    assert jax.tree.structure(found.params) == jax.tree.structure(network.params)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(network.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    hash(found.model)  # a static argument of compiled functions
    assert digest(found) == digest(network)


def test_the_workdir_the_folder_and_a_copy_of_it_are_the_same(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere" / "my_net")
    digests = {digest(load_network(p)) for p in (folder, folder.parent, tmp_path / "elsewhere" / "my_net")}
    assert len(digests) == 1
    other = small_network()
    other.params["params"]["encoder0"]["Convolution_0"]["bias"][0] += 1e-6
    assert digest(other) not in digests


def test_the_folder_can_be_read_without_this_program(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["network.json", "parameters.npz"]
    said = json.loads((folder / "network.json").read_text())
    assert said["class_names"] == ["class0", "class1"] and said["card"]["test"] == {"dice": 0.5}
    with np.load(folder / "parameters.npz", allow_pickle=False) as arrays:
        assert arrays["params/encoder0/Convolution_0/kernel"].shape == (3, 3, 2, 4)
        assert sum(arrays[name].size for name in arrays) == said["parameters"]["count"]


def test_the_description_is_json_for_everyone(tmp_path):
    card = {"test": {"dice": float("nan"), "class2": {"iou": float("nan"), "aji": 0.5}}, "masks": None}
    save_network(tmp_path, dataclasses.replace(small_network(), card=card))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    said = json.loads((tmp_path / "network.json").read_text(), parse_constant=refuse)
    assert said["card"] == {"test": {"dice": None, "class2": {"iou": None, "aji": 0.5}}, "masks": None}


def test_nothing_is_overwritten_unless_a_run_finishes_again(folder):
    before = (folder / "parameters.npz").read_bytes()
    other = small_network()
    other.params["params"]["encoder0"]["Convolution_0"]["bias"][:] = 7
    with pytest.raises(NetworkError, match="exists already and is not overwritten"):
        save_network(folder, other)
    assert (folder / "parameters.npz").read_bytes() == before
    (folder / "notes.txt").write_text("mine")
    save_network(folder, other, replace=True)
    assert digest(load_network(folder)) == digest(other)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_run_that_is_killed_between_the_two_files_is_noticed(folder):
    """The description vouches for the parameters, so old and new do not mix."""
    description = (folder / "network.json").read_bytes()
    other = small_network()
    other.params["params"]["encoder0"]["Convolution_0"]["bias"][:] = 7
    save_network(folder, other, replace=True)
    (folder / "network.json").write_bytes(description)
    with pytest.raises(NetworkError, match="damaged, or belongs to another"):
        load_network(folder)


# What a network finds


def test_segment_is_the_steps_of_training_one_by_one():
    network = blob_network()
    image, full = blobs(50, (90, 70), 12)
    (opinion,) = predict(network.model, network.params, [normalise(image)])
    expected, _ = label_instances(opinion, foreground(opinion, network.averaged), network.instances)
    found = segment(network, image)
    assert found.dtype == np.int32
    assert len(np.unique(found)) == len(np.unique(full))
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(found))
    assert ((found > 0) == (full > 0)).mean() > 0.98


def test_tiles_and_blocks_find_what_the_whole_image_shows():
    network = blob_network()
    image, _ = blobs(51, (2060, 60), 120)  # longer than two blocks
    found = analyse(network, image, tile=100, keep=True)
    (opinion,) = predict(network.model, network.params, [normalise(image)])
    expected, classes = label_instances(opinion, foreground(opinion, True), network.instances)
    assert found.cut == 0 and len(found.classes) == len(classes) > 50
    pairs = np.unique(np.stack([found.instances.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == len(classes)
    assert found.probabilities.shape == (3, 2060, 60) and found.probabilities.dtype == np.uint8
    np.testing.assert_allclose(found.probabilities[1] / 255, opinion.approximation[..., 0], atol=0.51 / 255)


def test_channels_and_percentiles_are_those_of_the_network():
    network = dataclasses.replace(blob_network(), channels=(1,))
    image, _ = blobs(52, (60, 60), channels=1)
    swapped = np.concatenate([np.full_like(image, 5), image], axis=-1)
    np.testing.assert_array_equal(segment(network, swapped), segment(blob_network(), image))
    np.testing.assert_array_equal(segment(blob_network(), image[..., 0]), segment(blob_network(), image))
    # percentiles 0 and 100 make a single hot pixel the measure of all; the recorded ones do not
    image[0, 0] = 65535
    assert segment(blob_network(), image).max() > 1
    assert segment(dataclasses.replace(blob_network(), percentiles=(0.0, 100.0)), image).max() <= 1


def test_intensities_are_scaled_as_in_training():
    from rams_jax.network import _limits

    image = np.random.default_rng(0).gamma(2, 900, (120, 80, 3)).astype(np.uint16)
    network = dataclasses.replace(blob_network(), channels=(2, 0), percentiles=PERCENTILES)
    np.testing.assert_array_equal(_limits(image, network), limits(image)[:, [2, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, bool])
def test_all_kinds_of_numbers(dtype):
    image, full = blobs(53, (48, 48), 5)
    image = (full > 0)[..., None] if dtype is bool else (image // 64).astype(dtype)
    assert len(np.unique(segment(blob_network(), image))) == len(np.unique(full))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5, 6, 1)), "(4, 5, 6, 1)"),
        (np.zeros((0, 5, 1)), "(0, 5, 1)"),
        (np.zeros(7), "(7,)"),
        (np.zeros((5, 5, 1), complex), "complex128"),
        (np.full((5, 5, 1), "a"), "<U1"),
        (np.full((5, 5, 1), np.nan), "25 NaN"),
        (np.full((5, 5, 1), -np.inf, np.float32), "infinite"),
    ],
)
def test_images_that_are_none_get_a_sentence(image, words):
    with pytest.raises(AnnotationError) as caught:
        segment(blob_network(), image)
    assert words in str(caught.value) and str(caught.value).endswith(".")


def test_too_few_channels_get_a_sentence():
    with pytest.raises(AnnotationError, match=r"sees the channels \[0, 2\], counted from 0, .* has 2\.$"):
        segment(small_network(), np.zeros((8, 8, 2)))


def test_constant_and_tiny_images_hold_nothing():
    for shape in [(1, 1, 1), (3, 200, 1), (65, 2, 1)]:
        found = analyse(blob_network(), np.full(shape, 7, np.uint8), keep=True)
        assert found.instances.shape == shape[:2] and found.probabilities.shape == (3, *shape[:2])


# What a run leaves


def test_the_network_of_a_run():
    def example(size, pixel_size):
        full = np.zeros((40, 40), np.int32)
        full[3 : 3 + size, 5:9] = 2
        partial = np.zeros_like(full)
        partial[4:6, 5:9] = 2
        image = np.zeros((40, 40, 1), np.float32)
        return Example(
            "e", image, full, partial, full >= 0, np.array([0, 0, 1]), np.zeros((40, 40, 1), np.int8), True, pixel_size
        )

    network = blob_network()
    keys = ("method", "data", "seed", "steps", "strong", "weak", "test", "masks", "commit", "versions", "seconds")
    examples = [example(30, 0.3), example(11, 0.3), example(7, 0.5)]
    found = trained(
        network.model, network.params, True, INSTANCES, ["nucleus"], ["separation"], (0,), 0.3,
        max(longest(e, strong=i == 1) for i, e in enumerate(examples)), dict.fromkeys(keys, 1),
    )  # fmt: skip
    assert found.largest_object == 11  # the first image's full mask is not known to training
    assert found.pixel_size == 0.3
    assert found.class_names == ("nucleus",) and found.auxiliary == ("separation",) and found.channels == (0,)
    assert found.card == dict.fromkeys(keys[:-1], 1)
    assert found.percentiles == PERCENTILES


# Damage


def rewrite(folder, key, value):
    """Changes one value of the description; DELETE removes it."""
    path = folder / "network.json"
    said = json.loads(path.read_text())
    *parents, last = key.split(".")
    section = said
    for parent in parents:
        section = section[parent]
    if value is DELETE:
        del section[last]
    else:
        section[last] = value
    path.write_text(json.dumps(said))


DELETE = object()
WRONG = [
    ("format", 2, "format 2"),
    ("format", "1", "describes no network"),
    ("format", DELETE, "describes no network"),
    ("model", [], "model.width is missing"),
    ("model", DELETE, "model.width is missing"),
    ("model.width", 0, "model.width is 0"),
    ("model.width", "4", "model.width is '4'"),
    ("model.width", True, "model.width is True"),
    ("model.width", 10**30, "model.width"),
    ("model.width", 3, "asks for float32 (3, 2)"),
    ("model.width", 4096, "is too small for the"),
    ("model.depth", 10**6, "model.depth is 1000000"),
    ("model.depth", 3, "other parameters"),
    ("model.own_levels", 2, "below depth"),
    ("model.dtype", "float8", "float32, bfloat16"),
    ("model.dtype", ["float32"], "model.dtype"),
    ("model.layers", 3, "layers"),
    ("model.mean", [None], "model.mean"),
    ("model.mean", [0.0, 0.0, 0.0], "as many numbers"),
    ("model.std", [0.0], "above 0"),
    ("model.std", [float("nan")], "above 0"),
    ("class_names", [], "class_names"),
    ("class_names", "ab", "class_names"),
    ("class_names", [1, 2], "class_names"),
    ("class_names", ["a", "a"], "different"),
    ("class_names", [["a"], ["b"]], "class_names"),
    ("class_names", ["a"] * 5000, "..."),
    ("class_names", ["a", "b", "c"], "asks for float32 (3,)"),
    ("auxiliary.tasks", {}, "auxiliary.tasks"),
    ("auxiliary.channels", -1, "auxiliary.channels is -1"),
    ("auxiliary.channels", 0, "dividing"),
    ("auxiliary", None, "auxiliary.tasks is missing"),
    ("channels", [0, 0], "different"),
    ("channels", [10**9], "channels"),
    ("channels", [0, 1, 2], "encoder0/Convolution_0/kernel"),
    ("normalisation.percentiles", [99, 1], "the smaller first"),
    ("normalisation.percentiles", 5, "the smaller first"),
    ("averaged", 1, "true or false"),
    ("instances.threshold", float("inf"), "from 0 to 1"),
    ("instances.marker_sigma", 1e9, "marker_sigma"),
    ("instances.marker_depth", 1, "below 1"),
    ("instances.min_area", 2.5, "min_area"),
    ("instances.dividing", [1], "not there"),
    ("instances.beginning", [1], "not there"),
    ("instances.dividing", DELETE, "instances.dividing is missing"),
    ("training.pixel_size", 0, "above 0"),
    ("training.largest_object", 10**18, "largest_object"),
    ("card", "good", "card"),
    ("parameters.sha256", "0", "damaged"),
    ("parameters", DELETE, "parameters.sha256 is missing"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG, ids=lambda v: "DELETE" if v is DELETE else str(v)[:20])
def test_an_impossible_description_gets_a_sentence(folder, key, value, words):
    rewrite(folder, key, value)
    assert_sentence(folder, words)


def assert_sentence(folder, words):
    with pytest.raises(NetworkError) as caught:
        load_network(folder)
    text = str(caught.value)
    assert str(folder) in text and words in text, text
    assert text.endswith(".") and "\n" not in text and len(text) < 600


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b"{}" + b" " * 2**20, b"NaN"]
)
def test_a_description_that_is_none_gets_a_sentence(folder, content):
    (folder / "network.json").write_bytes(content)
    assert_sentence(folder, "network.json")


def test_no_network_gets_a_sentence(tmp_path):
    with pytest.raises(NetworkError, match="holds no network"):
        load_network(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NetworkError, match="no network yet; give its training command again"):
        load_network(tmp_path)


def vouch(folder):
    """Makes the description vouch for whatever parameters there are."""
    import hashlib

    rewrite(folder, "parameters.sha256", hashlib.sha256((folder / "parameters.npz").read_bytes()).hexdigest())


@pytest.mark.parametrize("vouched", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_parameters_cut_or_changed_anywhere_get_a_sentence(folder, seed, vouched):
    """Unless it is vouched for, and the change makes no difference to a reader: zip has unused bytes."""
    path = folder / "parameters.npz"
    rng = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    if seed % 2:
        content = content[: rng.integers(len(content))]
    else:
        for place in rng.integers(len(content), size=20):
            content[place] ^= 1 << rng.integers(8)
    path.write_bytes(content)
    if vouched:
        vouch(folder)
        assert_sentence(folder, "parameters.npz")
    else:
        assert_sentence(folder, "damaged")


def test_missing_parameters_get_a_sentence(folder):
    (folder / "parameters.npz").unlink()
    assert_sentence(folder, "parameters.npz")


def changed_array(folder, name, content):
    """Replaces one array of parameters.npz by these bytes."""
    path = folder / "parameters.npz"
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members[f"{name}.npy"] = content
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    vouch(folder)


def npy(array, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


BIAS = "params/encoder0/Convolution_0/bias"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy(np.zeros(5, np.float32)), "asks for float32 (4,)"),
        (npy(np.zeros(4)), "float64"),
        (npy(np.array([None] * 4), allow_pickle=True), "object"),
        (npy(np.full(4, np.nan, np.float32)), "NaN"),
        (npy(np.zeros(4, np.float32)).replace(b"(4,)", b"(9999999999999,)"), "BIAS"),
        (b"", "cannot be read"),
        (b"not an array", "cannot be read"),
    ],
    ids=["shape", "dtype", "pickle", "NaN", "huge", "empty", "text"],
)
def test_an_array_that_does_not_fit_gets_a_sentence(folder, content, words):
    changed_array(folder, BIAS, content)
    assert_sentence(folder, BIAS if words == "BIAS" else words)


def test_an_array_too_many_gets_a_sentence(folder):
    changed_array(folder, "params/another", npy(np.zeros(3, np.float32)))
    assert_sentence(folder, "other parameters")
