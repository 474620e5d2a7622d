"""The settings that configs/folder.py chooses, on folders whose sizes are known."""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import folders
import numpy as np
import pytest
from folders import both, classes, project, put

from rams_jax import config as settings
from rams_jax import datasets
from rams_jax.datasets.survey import survey
from rams_jax.types import MarkSettings

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEYS = ("augment.crop", "model.depth", "train.strong_crops", "evolution.reach", "instances.marker_sigma")


def load(name):
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


folder_config = load("configs/folder")


@pytest.fixture
def folder(tmp_path):
    return folders.healthy(tmp_path / "my cells")


def discs(path, radius, size, spacing):
    """Five outlined images of discs, of which a, b and c train."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    full, index = np.zeros(size, np.uint16), 0
    for row in range(spacing // 2, size[0] - radius, spacing):
        for column in range(spacing // 2, size[1] - radius, spacing):
            index += 1
            full[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = index
    for seed, name in enumerate("abcde"):
        folders.write(path / "images" / f"{name}.tif", folders.noise(seed, size))
        folders.write(path / "masks" / f"{name}.tif", full)
    folders.write_splits(path, dict(a="train", b="train", c="train", d="validation", e="test"))
    return path


@pytest.mark.parametrize(
    ("radius", "size", "spacing", "expected"),
    [
        # d = 8: 3 d is below the least crop; the field of view of 42 pixels is enough; d / 8 = 1 is below both least.
        (4, (100, 120), 20, (48, 3, 6, 2, 1.0)),
        # d = 40: 3 d = 120; 1.5 d = 60 needs 94 pixels; d / 8 = 5.
        (20, (160, 200), 60, (120, 4, 4, 5, 5.0)),
        # d = 120: 3 d = 360 is above the largest crop; 1.5 d = 180 needs 198 pixels; d / 8 = 15.
        (60, (300, 300), 150, (256, 5, 2, 15, 15.0)),
        # The same in images of 150 pixels: a multiple of 16.
        (60, (150, 300), 150, (144, 5, 2, 15, 15.0)),
    ],
)
def test_sizes(tmp_path, capsys, radius, size, spacing, expected):
    config = folder_config.get_config(str(discs(tmp_path / "discs", radius, size, spacing)))
    values = settings.flatten(config)
    chosen = tuple(values[key] for key in KEYS)
    assert chosen[:4] == expected[:4] and chosen[4] == pytest.approx(expected[4], rel=0.06)
    # A quarter of the area of the discs.
    assert values["instances.min_area"] == pytest.approx(max(4, np.pi * radius**2 / 4), rel=0.1)
    assert (values["data.strong"], values["data.name"]) == (3, "folder")
    told = capsys.readouterr().out
    assert f"3 outlined and 0 marked training images of {size[0]} x {size[1]}." in told
    assert f"augment.crop {expected[0]}, model.depth {expected[1]}," in told and f"reach {expected[3]}," in told
    assert ("would train faster" in told) == (radius == 60)
    settings.validate(config)
    assert config.is_locked
    assert values.keys() == settings.flatten(settings.default()).keys()


def test_steps_grow_with_the_images():
    """2 x 6 crops of 48 x 48 are 27,648 pixels: as much as 6 images of 4,608; all have had a turn after N / 6 steps."""
    few = survey_of(outlined=2, marked=98, largest=4608)
    assert turns(few) == (6, 700)  # 10 turns would take 167 steps
    assert turns(survey_of(outlined=2, marked=598, largest=4608)) == (6, 1000)
    assert turns(survey_of(outlined=2, marked=98, largest=1_000_000)) == (1, 1000)
    assert turns(survey_of(outlined=2, marked=3998, largest=1_000_000)) == (8, 5000)
    assert turns(survey_of(outlined=2, marked=98, largest=400)) == (16, 700)


def survey_of(**changes):
    base = dict(class_names=(), channels=(0,), strokes=(), several=True, height=100, width=100)
    return folder_config.Survey(**base, **changes, diameters=(np.array([12.0]),))


def turns(found):
    chosen = folder_config.choose(found)
    return chosen["evolution.images_per_step"], chosen["train.steps"]


def test_one_object_an_image_needs_no_separation(folder):
    for name in "abcd":
        put(f"masks/{name}", np.minimum(folders.objects(), 1) * (folders.objects() == 1))(folder)
    assert folder_config.get_config(str(folder)).data.auxiliary == ()


def test_project_classes_channels_and_strokes(folder):
    both(
        classes(),
        project('class_names = ["bubble", "ice"]\nchannels = [2, 0]'),
        put("background/e", 0 * folders.marks()),
        *(put(f"images/{name}", folders.noise(0, (*folders.SIZE, 3))) for name in "abcdef"),
    )(folder)
    found = survey(folder, 0)
    # 10 x 10 and 10 x 12 pixels, on a, b, e and f.
    np.testing.assert_allclose(found.diameters, np.sqrt([[400 / np.pi] * 4, [480 / np.pi] * 4]))
    config = folder_config.get_config(str(folder))
    assert config.data.class_names == ("bubble", "ice") and config.data.channels == (2, 0)
    assert config.data.auxiliary == ("separation", "background", "interior")
    assert config.data.strong == 4 and config.augment.crop == 24  # no larger than images of 24 x 30


def test_the_field_of_view_is_that_of_the_network():
    import jax

    from rams_jax.model import MultiTaskUNet
    from rams_jax.types import ModelSettings

    model = MultiTaskUNet(ModelSettings(width=2, depth=3, own_levels=1, dtype="float32"), 1, 0)
    image, inside = np.random.default_rng(0).normal(size=(1, 64, 64, 1)), np.ones((1, 64, 64), bool)
    params = jax.jit(model.init)(jax.random.key(1), image, inside)
    slope = jax.jit(jax.grad(lambda x, at: model.apply(params, x, inside)[0][0, at, at].sum()))
    columns = [np.flatnonzero(np.abs(slope(image, at)[0, ..., 0]).sum(0)) for at in (30, 31, 32, 33)]
    # A pixel of the coarsest grid is 4 wide; how far a pixel sees differs with its place in it.
    assert np.mean([c.max() - c.min() + 1 for c in columns]) == folder_config.sight(3) == 42


def test_what_cannot_be_chosen_from_is_a_sentence(folder):
    with pytest.raises(
        settings.ConfigError, match="configs/folder.py needs a folder: --config=configs/folder.py:FOLDER"
    ):
        folder_config.get_config()
    with pytest.raises(settings.ConfigError, match="nowhere: there is no such folder"):
        folder_config.get_config(str(folder / "nowhere"))
    for name in "ab":
        put(f"masks/{name}", 0 * folders.objects())(folder)
    with pytest.raises(settings.ConfigError, match="no full mask of a training image shows an object"):
        folder_config.get_config(str(folder))


def test_training_takes_the_choice(folder):
    from rams_jax.experiment import prepare

    classes(names='class_names = ["bubble", "ice"]')(folder)
    data = folder_config.get_config(str(folder)).data
    splits = datasets.load(
        "folder", data.source, folder, 0, MarkSettings(), data.channels, data.auxiliary, data.class_names
    )
    assert len(splits.train) == data.strong == 4 and splits.train[0].classes.tolist() == [0, 1, 0, 0, 2]
    config = folder_config.get_config(str(folder))
    config.data.class_names = ("ice", "bubble")
    with pytest.raises(ValueError, match=r"project.toml: the classes are bubble, ice, but data.class_names is \('ice'"):
        prepare(config)


def test_command_line(folder, tmp_path):
    """The choice is told once; a folder that cannot be used is one sentence."""
    command = [sys.executable, ROOT / "launch" / "main.py", f"--config={ROOT / 'configs' / 'folder.py'}:{folder}"]
    done = subprocess.run(
        [*command, "--config.method=magic"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "method is 'magic'" in done.stderr
    assert done.stdout.count("Chosen: ") == 1 and len(done.stdout.splitlines()) == 3


def test_docstring_tells_command_hardware_time_and_score():
    for line in ("Command:", "Hardware:", "Time:", "Score:", "--config=configs/folder.py:FOLDER"):
        assert line in folder_config.__doc__


def test_workdir_of_a_path():
    name = load("launch/main").default_workdir
    assert name("configs/folder.py:/data/my cells/", "rams", 0) == "runs/folder-my_cells-rams-seed0"
    assert name("configs/folder.py:.", "rams", 1) == f"runs/folder-{pathlib.Path().resolve().name}-rams-seed1"
    assert name("configs/microscopy.py:smoke", "full", 2) == "runs/microscopy-smoke-full-seed2"
    assert name("configs/microscopy.py", "rams", 0) == "runs/microscopy-rams-seed0"


@pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA does not name the folder of further real images")
@pytest.mark.parametrize(
    ("name", "depth", "crop", "auxiliary"),
    # Nuclei of some 20 pixels; heads of some 200, one an image.
    [("dsb2018_histology", 3, (48, 80), 2), ("dsb2018_fluorescence", 3, (48, 120), 2), ("hc18", 5, (256, 256), 0)],
)
def test_real_folders(name, depth, crop, auxiliary, tmp_path):
    source = pathlib.Path(os.environ["RAMS_DATA"]) / name
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for file in sorted((source / part).iterdir())[::20]:
            shutil.copy(file, tmp_path / part)
    config = folder_config.get_config(str(tmp_path))
    settings.validate(config)
    assert config.model.depth == depth and crop[0] <= config.augment.crop <= crop[1]
    assert len(config.data.auxiliary) == auxiliary
    assert config.data.channels == ((0, 1, 2) if name == "dsb2018_histology" else (0,))
