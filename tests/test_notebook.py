"""The notebook, run from top to bottom with few steps, and what it shows."""

import base64
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "rams_jax.ipynb"
SHORT = {"STEPS": 100, "FOLDER_STEPS": 80}


def read():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def source(name):
    (found,) = (cell for cell in read()["cells"] if cell["id"] == name)
    return "".join(found["source"])


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder that it ran in, and its code cells by id."""
    nbclient = pytest.importorskip("nbclient", reason="the extra [test] is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra [test] is not installed")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (settings,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in SHORT.items():
        settings.source, count = re.subn(rf"(?m)^{name} = \d+", f"{name} = {value}", settings.source)
        assert count == 1
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "IPYTHONDIR": str(folder / "ipython")}
    environment["XLA_FLAGS"] = "--xla_backend_optimization_level=1"  # one device, as at home; compiles a quarter faster
    client = nbclient.NotebookClient(
        notebook, kernel_name="python3", timeout=500, resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "jupyter"))
        client.execute(env=environment)
    return folder, {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def printed(cell, stream="stdout"):
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == stream)


def pixels(png):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def pictures(cell):
    """Those that a cell shows: int[H, W, 3]."""
    return [pixels(base64.b64decode(o.data["image/png"])) for o in cell.outputs if "image/png" in o.get("data", {})]


def frames(cell):
    """Those of the film that a cell shows: int[H, W, 3]."""
    (page,) = (o.data["text/html"] for o in cell.outputs if "text/html" in o.get("data", {}))
    found = re.findall(r'frames\[\d+\] = "data:image/png;base64,([^"]+)"', page)
    return [pixels(base64.b64decode(text.replace("\\\n", ""))) for text in found]


def coloured(picture):
    """bool[H, W]: in a mark or in a mask, as images are grey and outlines black and white; or in the key."""
    return picture.max(-1) - picture.min(-1) > 60


def test_the_file_is_small_explained_and_without_outputs():
    notebook = read()
    assert notebook["nbformat"] == 4 and notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    assert "OWNER/REPOSITORY" in "".join(cells[0]["source"])  # until there is a public address
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown", f"{cell['id']}: say first what it does"
            assert cell["outputs"] == [] and cell["execution_count"] is None
            assert len(cell["source"]) <= 30
    assert NOTEBOOK.stat().st_size < 30_000


def test_every_cell_ran_in_order_without_a_complaint(ran):
    cells = ran[1].values()
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == "error"]
        assert not re.search("Warning|Error", printed(cell, "stderr")), f"{cell.id}: {printed(cell, 'stderr')}"


def test_scores_are_those_of_the_summary_and_make_sense(ran):
    folder, cells = ran
    summary = json.loads((folder / "runs" / f"microscopy-{SHORT['STEPS']}" / "summary.json").read_text())
    test, masks = printed(cells["scores"]).split("Grown masks")
    for text, scores in ((test, summary["test"]), (masks, summary["masks"])):
        shown = [float(value) for value in re.findall(r"^  [A-Z].*?(\d+\.\d{4})  [A-Z]", text, re.MULTILINE)]
        assert shown == [round(value, 4) for value in scores.values()]
    assert summary["steps"] == SHORT["STEPS"] and summary["weak"] == 239
    assert 0.6 < summary["test"]["dice"] < 1 and 0.4 < summary["test"]["aji"] < 1
    assert 0.85 < summary["masks"]["precision"] <= 1 and 0.5 < summary["masks"]["recall"] < 1  # the marks hold 0.27


def test_pictures_are_those_of_the_run(ran):
    folder, cells = ran
    figures = folder / "runs" / f"microscopy-{SHORT['STEPS']}" / "figures"
    shown = pictures(cells["pictures"])
    assert len(shown) == 3
    np.testing.assert_array_equal(shown[0], pixels((figures / "growth.png").read_bytes()))
    np.testing.assert_array_equal(shown[2], pixels((figures / "curves.png").read_bytes()))


@pytest.mark.parametrize(
    "name, run", [("growth", f"microscopy-{SHORT['STEPS']}"), ("own-growth", f"own-annotated-{SHORT['FOLDER_STEPS']}")]
)
def test_the_film_shows_marks_that_grow(ran, name, run):
    from rams_jax.annotations import read_instances

    folder, cells = ran
    film = frames(cells[name])
    ages = [read_instances(path).max() for path in (folder / "runs" / run / "evolved").glob("*_age.tif")]
    assert 8 <= len(film) <= max(ages) + 1
    inside = [coloured(frame) for frame in film]
    for before, after in zip(inside, inside[1:], strict=False):
        assert after[before].all(), "what is in a mask stays in it"
    key = inside[0].copy()
    key[: -len(key) // 5] = False  # the lower fifth is the same in all frames
    assert inside[-1].sum() - key.sum() > 1.5 * (inside[0].sum() - key.sum()), "the masks do not grow"


def test_the_folder_is_found_checked_and_trained_on(ran):
    folder, cells = ran
    annotated = folder / "runs" / "sample" / "annotated"
    counts = {part: len(list((annotated / part).iterdir())) for part in ("images", "masks", "partial")}
    assert counts == {"images": 16, "masks": 6, "partial": 12}
    told = printed(cells["check"])
    assert "16 images can be used: 2 outlined and 10 marked to train, 2 for validation, 2 for the test." in told
    assert "no errors, no warnings." in told
    run = folder / "runs" / f"own-annotated-{SHORT['FOLDER_STEPS']}"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["strong"], summary["weak"], summary["steps"]) == (2, 10, SHORT["FOLDER_STEPS"])
    assert f"Dice on the test images: {summary['test']['dice']:.4f}" in printed(cells["own-train"])
    assert 0.5 < summary["test"]["dice"] < 1
    assert len(list((run / "evolved").glob("*_masks.tif"))) == 10


def test_a_new_image_is_segmented(ran):
    from rams_jax.annotations import read_instances

    folder, cells = ran
    name, height, width, objects = re.search(
        r"(\S+): (\d+) x (\d+) pixels, (\d+) objects", printed(cells["segment"])
    ).groups()
    assert (name, height, width) == ("dish.tif", "210", "184")
    results = folder / "runs" / f"own-annotated-{SHORT['FOLDER_STEPS']}-results"
    instances = read_instances(results / "instances" / "dish.tif")
    assert instances.max() == int(objects) >= 10  # of about thirty
    (overlay,) = pictures(cells["infer"])
    assert overlay.shape[:2] == (420, 368)
    lines = coloured(overlay)
    assert lines.any() and lines.mean() < 0.3
    with zipfile.ZipFile(f"{results}.zip") as archive:
        names = set(archive.namelist())
    assert {"report.html", "measurements.csv", "instances/dish.tif", "network/parameters.npz"} <= names
    assert f"{results}.zip" in printed(cells["zip"])


def test_where_the_package_is_missing_one_sentence_says_what_to_do(tmp_path):
    code = source("settings") + "\n" + source("install")
    command = [sys.executable, "-I", "-S", "-c", code]  # without any installed package
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: rams_jax is not here: set REPOSITORY, ") and last.count(".") == 1
