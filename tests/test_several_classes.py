"""A run with two classes, from a folder to its report: bright discs and dark ones on a grey ground."""

import csv
import pathlib

import numpy as np
import pytest
import synthetic
import tifffile


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder, the workdir and the summary; objects 1 to 3 are bright, 4 to 6 dark."""
    from rams_jax import train

    folder = synthetic.write_folder(tmp_path_factory.mktemp("data") / "discs", images=7)
    rows = []
    for path in sorted((folder / "images").iterdir()):
        full = tifffile.imread(folder / "masks" / path.name)
        grey = np.random.default_rng(int(path.stem[4:])).normal(0.5, 0.03, full.shape)
        grey += 0.4 * ((full > 0) & (full <= 3)) - 0.4 * (full > 3)
        tifffile.imwrite(path, (1000 * np.clip(grey, 0, 2)).astype(np.uint16))
        rows += [f"{path.stem},{i},{'bright' if i <= 3 else 'dark'}\n" for i in np.unique(full[full > 0])]
    (folder / "classes.csv").write_text("name,id,class\n" + "".join(rows))
    (folder / "project.toml").write_text('class_names = ["bright", "dark"]\n')
    config = synthetic.small_config(folder, steps=150)
    config.data.class_names = ("bright", "dark")
    config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 150
    workdir = tmp_path_factory.mktemp("run") / "run"
    return folder, workdir, train.train(config, workdir)


def classes(folder: pathlib.Path):
    with (folder / "classes.csv").open(newline="") as file:
        return {(row["name"], int(row["id"])): row["class"] for row in csv.DictReader(file)}


def test_each_class_is_learnt_and_its_masks_grow(run):
    _, _, summary = run
    assert min(summary["test"]["dice_1"], summary["test"]["dice_2"]) > 0.8, summary["test"]
    assert summary["masks"]["precision"] > 0.9 and summary["masks"]["recall"] > 0.75, summary["masks"]


def test_the_grown_masks_keep_the_classes_of_the_folder(run):
    folder, workdir, _ = run
    given, kept = classes(folder), classes(workdir / "evolved")
    weak = {path.name.removesuffix("_masks.tif") for path in (workdir / "evolved").glob("*_masks.tif")}
    assert len(weak) == 4
    assert kept == {key: kind for key, kind in given.items() if key[0] in weak}


def test_predicted_objects_have_a_class_and_the_right_one(run):
    _, workdir, _ = run
    found = classes(workdir / "predictions")
    (path,) = (workdir / "predictions").glob("*.tif")
    instances, truth = tifffile.imread(path), synthetic.drawn(6)[1]
    assert [key for key in found] == [(path.stem, i) for i in range(1, instances.max() + 1)]
    for i in range(1, instances.max() + 1):
        seen = truth[instances == i]
        kind = "bright" if 2 * ((seen > 0) & (seen <= 3)).sum() > len(seen) else "dark"
        assert found[path.stem, i] == kind
    assert "By class" in (workdir / "report.html").read_text()
