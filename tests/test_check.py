"""Each way to break a folder gets its one sentence, in the checker and in training."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import folders
import numpy as np
import pytest
from broken_folders import BROKEN
from folders import classes, edited, marks, project, put, splits, squares

from rams_jax import commandline, datasets
from rams_jax.annotations import AnnotationError
from rams_jax.check import as_json, check, lines
from rams_jax.types import MarkSettings

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return folders.healthy(tmp_path_factory.mktemp("healthy") / "cells")


@pytest.fixture
def folder(source, tmp_path):
    return shutil.copytree(source, tmp_path / "cells")


def train(path):
    """What training reads."""
    return datasets.load("folder", str(path), path / "cache", 0, MarkSettings(), (), ("separation",))


def test_a_healthy_folder_has_no_findings(folder):
    result = check(folder)
    assert result.findings == ()
    assert result.images == {"all": 6, "train": 4, "validation": 1, "test": 1} | {
        "train, outlined": 2, "train, marked": 2, "validation, outlined": 1, "test, outlined": 1
    }  # fmt: skip
    assert lines(result)[-1] == "no errors, no warnings."
    assert train(folder).warnings == ()


def test_the_table_is_long():
    assert len(BROKEN) >= 40 and len({b.kind for b in BROKEN}) == len(BROKEN)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.kind)
def test_broken(folder, broken):
    broken.change(folder)
    findings = check(folder).findings
    assert [f.code for f in findings] == [broken.code], findings
    found = findings[0]
    assert found.error == broken.error
    assert found.sentence.startswith(str(folder)) and found.sentence[-1] in ".?" and "\n" not in found.sentence
    position = 0
    for words in broken.words.split("*"):
        position = found.sentence.find(words.strip(), position)
        assert position >= 0, found.sentence
    assert str(found.path) in found.sentence
    if broken.error:
        with pytest.raises(AnnotationError) as caught:
            train(folder)
        assert str(caught.value) == found.sentence
    else:
        assert train(folder).warnings == (found.sentence,)


def test_all_findings_come_at_once(folder):
    for kind in ("an image without", "JPEG mask", "float mask", "negative size", "one grey"):
        next(b for b in BROKEN if b.kind == kind).change(folder)
    found = check(folder)
    # b has a JPEG and a float mask by now; errors come first.
    codes = ["no-annotation", "lossy-mask", "project-value", "mask", "blank-image"]
    assert sorted(f.code for f in found.findings) == sorted(codes)
    assert [f.error for f in found.findings] == [True] * 4 + [False]


def test_two_classes_and_strokes_and_incomplete_images(folder):
    classes(("e,4,ice", "e,4,bubble"))(folder)
    project('class_names = ["bubble", "ice"]\nincomplete = ["a", "e"]')(folder)
    (folder / "masks" / "e.tif").unlink()
    put("interfaces/f", edited(0 * marks(), (np.s_[11, 11:15], 1), (np.s_[0], 2)))(folder)
    assert [f.code for f in check(folder).findings] == ["few-strong"] * 2, "three objects of each class"
    examples = {e.name: e for e in train(folder).train}
    assert [examples[n].classes.tolist() for n in "abef"] == [[0, 1, 0, 0, 2]] * 2 + [[0, 1, 0, 0, 1], [0, 1, 0, 0, 2]]
    assert [examples[n].complete for n in "abef"] == [False, True, False, True]
    strokes = examples["f"].auxiliary[..., 0]
    assert (strokes == 2).sum() == 4 and (strokes[0] == 1).all() and (strokes == 1).sum() == 30 + 15


def test_json(folder):
    splits(e="training")(folder)
    put("masks/b", squares(1, 2, 2, 4))(folder)
    told = as_json(check(folder))
    assert (told["errors"], told["warnings"], told["images"]["all"]) == (1, 1, 6)
    assert [(f["severity"], f["code"], f["file"]) for f in told["findings"]] == [
        ("error", "splits-table", "splits.csv"),
        ("warning", "reused-id", "masks/b.tif"),
    ]
    assert json.loads(json.dumps(told)) == told


def launch(*command):
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_exit_code(folder, capsys):
    """A warning alone lets a script go on."""
    spec = importlib.util.spec_from_file_location("launch_check", ROOT / "launch" / "check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commandline.parse_flags(["check.py"])
    put("partial/e", squares(1, 2, 3, 1))(folder)
    with pytest.raises(SystemExit) as stopped:
        module.main(["check.py", str(folder)])
    told = capsys.readouterr().out.splitlines()
    assert stopped.value.code == 0 and told[0].startswith("warning [reused-id]") and told[-1] == "no errors, 1 warning."
    with pytest.raises(SystemExit) as stopped:
        module.main(["check.py"])
    assert stopped.value.code == 2


def test_both_programs_say_the_same(folder):
    splits(e="training")(folder)
    checked = launch("launch/check.py", str(folder), "--json")
    assert (checked.returncode, checked.stderr) == (1, "")
    sentence = json.loads(checked.stdout)["findings"][0]["sentence"]
    config = ["--config=configs/microscopy.py:smoke", "--config.data.name=folder", f"--config.data.source={folder}"]
    trained = launch("launch/main.py", *config, f"--workdir={folder}/run")
    assert (trained.returncode, trained.stderr.strip()) == (2, sentence)
    assert not (folder / "run").exists()


@pytest.mark.skipif("RAMS_DATA" not in os.environ, reason="RAMS_DATA does not name the folder of further real images")
@pytest.mark.parametrize("name", ["dsb2018_histology", "dsb2018_fluorescence", "hc18"])
def test_real_folders_are_healthy(name, tmp_path):
    source = pathlib.Path(os.environ["RAMS_DATA"]) / name
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        for file in sorted((source / part).iterdir())[::40]:
            shutil.copy(file, tmp_path / part)
    found = check(tmp_path).findings
    # Of hc18 so few images to train are left that it is told so.
    assert all(not f.error and f.code == "few-strong" for f in found), found
