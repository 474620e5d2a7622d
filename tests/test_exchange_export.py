"""Masks out and in again by the programs, what they say of mistakes, and files that were made to do harm."""

import json
import os
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from drawings import CELLS, CLASSES, NAMES, files, home, put, take

from rams_jax.annotations import AnnotationError, read_instances, write_instances
from rams_jax.exchange import imagej, qupath
from rams_jax.exchange.exporting import export_annotations

__all__ = ["home"]  # a fixture

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run_folder():
    """What a run leaves: grown masks, ages and predictions."""
    for name in NAMES:
        for folder in ("evolved", "predictions"):
            pathlib.Path("run", folder).mkdir(parents=True, exist_ok=True)
        write_instances(f"run/evolved/{name}_masks.tif", CELLS, 0.5)
        write_instances(f"run/evolved/{name}_age.tif", CELLS * 0 + 3, 0.5)
        write_instances(f"run/predictions/{name}_test.tif", CELLS[::-1], 0.5)
    pathlib.Path("run/config.json").write_text(json.dumps({"data": {"class_names": ["nucleus"]}}))


@pytest.mark.parametrize("form, ending", [("roi", "zip"), ("geojson", "geojson"), ("labels", "tif")])
def test_grown_masks_go_out_and_come_in_again(home, form, ending):
    run_folder()
    assert export_annotations(pathlib.Path("run"), pathlib.Path("out"), form, "masks") == 2
    assert files("out") == [f"{name}.{ending}" for name in NAMES]
    found = take(annotations="out")
    assert (found.images, found.objects, found.warnings) == (2, 6, ())
    for name in NAMES:
        assert np.array_equal(read_instances(f"project/masks/{name}.tif"), CELLS)
    if form != "labels":
        assert pathlib.Path("project/classes.csv").read_text().count("nucleus") == 6
    with pytest.raises(AnnotationError, match=rf"out/cells_1.{ending}: exists already"):
        export_annotations(pathlib.Path("run"), pathlib.Path("out"), form, "masks")
    assert export_annotations(pathlib.Path("run"), pathlib.Path("tests"), form, "predictions") == 2
    assert files("tests") == [f"{name}_test.{ending}" for name in NAMES]
    assert export_annotations(pathlib.Path("project/masks"), pathlib.Path("again"), form, "masks") == 2
    assert pathlib.Path(f"again/cells_2.{ending}").stat().st_size > 0


def test_classes_of_a_folder_go_out(home):
    put("cells_1.geojson", qupath.write(CELLS, "cells_1", CLASSES))
    take()
    export_annotations(pathlib.Path("project/masks"), pathlib.Path("out"), "roi", "masks")
    assert [shape.class_name for shape in imagej.read([pathlib.Path("out/cells_1.zip")]).shapes] == list(
        CLASSES.values()
    )


def test_exports_that_cannot_be_made(home):
    for workdir, words in [("none", "there is no such folder"), ("drawn", r"holds no \*.tif")]:
        with pytest.raises(AnnotationError, match=words):
            export_annotations(pathlib.Path(workdir), pathlib.Path("out"), "roi", "masks")
    run_folder()
    for path in pathlib.Path("run/evolved").iterdir():
        path.unlink()
    with pytest.raises(AnnotationError, match=r"run/evolved: holds no \*_masks.tif"):
        export_annotations(pathlib.Path("run"), pathlib.Path("out"), "roi", "masks")


def launch(program, *options):
    command = [sys.executable, str(ROOT / "launch" / program), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


def test_the_programs(home):
    run_folder()
    result = launch("export_annotations.py", "--workdir=run", "--out=out", "--format=geojson")
    assert (result.returncode, result.stdout, result.stderr) == (0, "2 images -> out\n", "")
    options = ("--images=raw", "--annotations=out", "--out=project", "--kind=full")
    result = launch("import_annotations.py", *options)
    assert (result.returncode, result.stdout, result.stderr) == (0, "2 images with 6 objects -> project/masks\n", "")


@pytest.mark.parametrize(
    "program, options, words",
    [
        ("import_annotations.py", ["--images=a"], "--annotations is missing"),
        ("import_annotations.py", ["--images=a", "--annotations=b", "--out=c", "--kind=all"], "kind"),
        ("export_annotations.py", ["--workdir=none", "--out=c", "--format=roi"], "none: there is no such folder"),
        ("export_annotations.py", ["full"], "What does full mean?"),
    ],
)
def test_mistakes_on_the_command_line(home, program, options, words):
    result = launch(program, *options)
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_absurd_files_are_refused(home):
    with zipfile.ZipFile("drawn/cells_1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(257 * 2**20))
    with pytest.raises(AnnotationError, match="cells_1.zip: larger than 256 MiB when unpacked"):
        take()
    with zipfile.ZipFile("drawn/cells_1.zip", "w") as archive:
        for i in range(50_001):
            archive.writestr(str(i), b"")
    with pytest.raises(AnnotationError, match="cells_1.zip: holds 50001 files"):
        take()
    os.remove("drawn/cells_1.zip")
    put("cells_1.json", b"[" * 1_000_000)
    with pytest.raises(AnnotationError, match="cells_1.json: is not readable JSON"):
        take()


def test_paths_inside_files_lead_nowhere(home):
    os.remove("raw/cells_2.png")
    with zipfile.ZipFile("all.zip", "w") as archive:
        pathlib.Path("inner.zip").write_bytes(imagej.write(CELLS, {}))
        with zipfile.ZipFile("inner.zip") as inner:
            archive.writestr("../../evil.roi", inner.read("id 00001.roi"))
            archive.writestr("/tmp/evil.roi", inner.read("id 00002.roi"))
    before = sorted(path for path in home.rglob("*"))
    assert take(annotations="all.zip").objects == 2
    after = sorted(path for path in home.rglob("*") if "project" not in path.parts)
    assert after == before and not (home.parent / "evil.roi").exists()
    shape = {"label": "a", "points": [[1, 1], [4, 1], [4, 4]], "shape_type": "polygon"}
    put("x.json", {"shapes": [shape], "imagePath": "../../../etc/passwd", "imageHeight": 12, "imageWidth": 16})
    take("partial", images="raw/cells_1.png")
    assert files() == ["classes.csv", "images/cells_1.png", "masks/cells_1.tif", "partial/cells_1.tif", "project.toml"]
