"""From files of other tools to a folder to train from, and what is refused."""

import os
import pathlib
import tomllib
import zipfile

import numpy as np
import pytest
import tifffile
from drawings import CELLS, CLASSES, NAMES, SIZE, files, home, put, square, take
from PIL import Image

from rams_jax.annotations import AnnotationError, read_instances, write_instances
from rams_jax.exchange import imagej, qupath

__all__ = ["home"]  # a fixture


def test_a_folder_of_annotations_becomes_a_folder_to_train_from(home):
    put("cells_1.geojson", qupath.write(CELLS, "cells_1", CLASSES))
    put("RoiSet_cells_2.zip", imagej.write(CELLS[::-1], CLASSES))
    found = take()
    assert (found.images, found.objects, found.warnings) == (2, 6, ())
    assert files() == [
        "classes.csv",
        "images/cells_1.png",
        "images/cells_2.png",
        "masks/cells_1.tif",
        "masks/cells_2.tif",
        "project.toml",
    ]
    assert np.array_equal(read_instances("project/masks/cells_1.tif"), CELLS)
    assert np.array_equal(read_instances("project/masks/cells_2.tif"), CELLS[::-1])
    assert pathlib.Path("project/images/cells_1.png").read_bytes() == pathlib.Path("raw/cells_1.png").read_bytes()
    rows = [f"{name},{i},{CLASSES[i]}\n" for name in NAMES for i in (1, 2, 3)]
    assert pathlib.Path("project/classes.csv").read_text() == "name,id,class\n" + "".join(rows)
    assert tomllib.loads(pathlib.Path("project/project.toml").read_text()) == {"class_names": ["nucleus", "debris"]}


def test_strokes(home):
    line = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[2.5, 4.5], [6.5, 4.5]]}}
    put("cells_1.geojson", {"type": "FeatureCollection", "features": [line, square(10, 2, 3)]})
    expected = np.zeros(SIZE, int)
    expected[4, 2:7], expected[2:5, 10:13] = 1, 1
    for kind in ("interfaces", "background"):
        found = take(kind, width=1.0)
        assert (found.images, found.objects) == (1, 0)
        assert np.array_equal(read_instances(f"project/{kind}/cells_1.tif"), expected)
    assert np.array_equal(np.unique(read_instances("project/interfaces/cells_1.tif")), [0, 1])
    assert "classes.csv" not in files()
    take("partial", width=1.0)
    assert np.array_equal(read_instances("project/partial/cells_1.tif")[4, 2:7], [1] * 5)


def test_label_images_come_through_unchanged(home):
    labels = np.where(CELLS > 0, CELLS * 10, 0)
    tifffile.imwrite("drawn/cells_1_labels.tif", labels.astype(np.uint16))
    Image.fromarray(labels.astype(np.uint8)).save("drawn/cells_2.png")
    assert take().objects == 6
    for name in NAMES:
        assert np.array_equal(read_instances(f"project/masks/{name}.tif"), labels)
    take("background")
    assert np.array_equal(read_instances("project/background/cells_1.tif"), labels > 0)
    with pytest.raises(AnnotationError, match="holds no classes to choose from"):
        take(out="other", only=("nucleus",))
    write_instances("drawn/cells_1_labels.tiff", labels, 1.0)
    with pytest.raises(AnnotationError, match="cells_1 is annotated in .*cells_1_labels.tif too"):
        take(out="other")


def test_single_rois_of_one_image_belong_together(home):
    pathlib.Path("all.zip").write_bytes(imagej.write(CELLS, {}))
    with zipfile.ZipFile("all.zip") as archive:
        for i, member in enumerate(archive.namelist()):
            put(f"00{i}2-00{i}7.roi", archive.read(member))
    assert take(images="raw/cells_2.png").objects == 3
    assert np.array_equal(read_instances("project/masks/cells_2.tif"), CELLS)
    with pytest.raises(AnnotationError, match=r"belongs to no image in raw"):
        take(out="other")  # of which of the two?
    assert take(annotations="all.zip", images="raw/cells_1.png").images == 1


def test_classes_are_added_to_what_is_there(home):
    put("cells_1.geojson", [square(1, 1, 4, "nucleus"), square(8, 1, 2, "debris"), square(8, 6, 4, "Ignore*")])
    assert "has the ignored class Ignore*" in take().warnings[0]
    table, project = pathlib.Path("project/classes.csv"), pathlib.Path("project/project.toml")
    table.write_text(table.read_text().rstrip())  # as some editors leave it
    project.write_text('# mine\nclass_names = [\n  "nucleus", "debris",\n]\ncomplete = true\n\n[extra]\na = 1\n')
    put("cells_1.geojson", [])
    put("cells_2.geojson", [square(1, 1, 4, 'a "b"'), square(8, 1, 2, "debris")])
    found = take("partial")
    assert any("cells_1 was left out" in line for line in found.warnings)
    assert any('new in class_names: a "b"' in line for line in found.warnings)
    assert table.read_text().splitlines()[1:] == [
        "cells_1,1,nucleus",
        "cells_1,2,debris",
        'cells_2,1,"a ""b"""',
        "cells_2,2,debris",
    ]
    content = tomllib.loads(project.read_text())
    assert content == {"class_names": ["nucleus", "debris", 'a "b"'], "complete": True, "extra": {"a": 1}}
    assert project.read_text().startswith("# mine\n")


def test_images_without_objects(home):
    """Whoever saves the outlines of an image and draws none says that there are none; of marks that is not so sure."""
    put("cells_1.geojson", qupath.write(CELLS * 0, "cells_1", {}))
    put("cells_2.zip", imagej.write(CELLS * 0, {}))
    found = take()
    assert (found.images, found.objects) == (2, 0)
    assert found.warnings == ("2 images come without any object, as images that show none: cells_1, cells_2.",)
    assert not read_instances("project/masks/cells_1.tif").any()
    with pytest.raises(
        AnnotationError, match=r"cells_2.zip: holds no shapes; cells_2 was left out.\ndrawn: nothing was"
    ):
        take("partial")
    put("cells_1.geojson", [square(1, 1, 4, "Region*")])
    os.remove("drawn/cells_2.zip")
    with pytest.raises(AnnotationError, match="ignored class Region.*\n.*holds no shapes; cells_1 was left out"):
        take(out="other")


def test_only_some_classes_and_a_class_for_the_rest(home):
    put("cells_1.geojson", [square(1, 1, 4, "nucleus"), square(8, 1, 2), square(8, 6, 4, "background")])
    with pytest.raises(AnnotationError, match="object 2 has no class, but others have.*--class_name=NAME"):
        take()
    assert not pathlib.Path("project").exists()
    take(only=("nucleus",))
    take("background", only=("background",))
    assert read_instances("project/masks/cells_1.tif").max() == 1
    assert np.argwhere(read_instances("project/background/cells_1.tif"))[[0, -1]].tolist() == [[6, 8], [9, 11]]
    assert take(out="other", class_name="debris").objects == 3
    assert "cells_1,2,debris" in pathlib.Path("other/classes.csv").read_text()
    with pytest.raises(
        AnnotationError, match=r"no shapes of class cell; cells_1 was left out.\ndrawn: nothing was found"
    ):
        take(out="third", only=("cell",))


def test_the_second_map_of_an_image_gets_the_ids_of_the_first(home):
    put("cells_1.geojson", qupath.write(CELLS, "cells_1", {}))
    take()
    marks = [square(13, 10, 1), square(3, 6, 1), square(2, 2, 1), square(4, 3, 1)]  # in objects 3, 2, 1 and 1
    put("cells_1.geojson", marks)
    take("partial")
    expected = np.zeros(SIZE, int)
    expected[10, 13], expected[6, 3], expected[2, 2], expected[3, 4] = 3, 2, 1, 1
    assert np.array_equal(read_instances("project/partial/cells_1.tif"), expected)
    # The other way round: marks first, numbered in their order; the objects of the full map follow, 3 has no mark.
    put("cells_2.geojson", [square(3, 6, 1), square(2, 2, 1)])
    os.remove("drawn/cells_1.geojson")
    take("partial")
    put("cells_2.geojson", qupath.write(CELLS, "cells_2", {}))
    take()
    assert np.array_equal(read_instances("project/masks/cells_2.tif"), np.array([0, 2, 1, 3])[CELLS])


def test_marks_and_objects_that_do_not_fit_are_told(home):
    put("cells_1.geojson", qupath.write(CELLS, "cells_1", {}))
    take()
    put("cells_1.geojson", [square(0, 2, 2), square(10, 1, 1)])
    with pytest.raises(AnnotationError, match="object 2 lies in no object of the image's full mask"):
        take("partial")
    put("cells_1.geojson", [square(0, 2, 2)])
    assert "object 1 leaves its full mask at 2 pixels" in take("partial").warnings[0]
    os.remove("drawn/cells_1.geojson")
    put("cells_2.geojson", [square(2, 2, 1), square(4, 3, 1), square(10, 1, 1)])
    take("partial")
    put("cells_2.geojson", qupath.write(CELLS, "cells_2", {}))
    with pytest.raises(AnnotationError) as error:
        take()
    first, second = str(error.value).splitlines()
    assert "object 1 (id 1) holds the marks 1 and 2" in first and "no object at mark 3" in second


def test_a_mark_of_another_class_than_its_object_is_told(home):
    put("cells_1.geojson", qupath.write(CELLS, "cells_1", CLASSES))
    take()
    put("cells_1.geojson", [square(2, 2, 1, "debris")])
    with pytest.raises(
        AnnotationError, match="object 1 .debris. is of class debris, but object 1 of cells_1 is of class nuc"
    ):
        take("partial")
    put("cells_1.geojson", [square(2, 2, 1)])  # without class: its object has one
    take("partial")
    assert pathlib.Path("project/classes.csv").read_text().count("\n") == 4


def snapshot():
    return {name: pathlib.Path("project", name).read_bytes() for name in files()}


def test_nothing_is_overwritten_and_nothing_is_written_by_halves(home):
    put("cells_1.geojson", [square(1, 1, 4, "nucleus")])
    take()
    before = snapshot()
    put("cells_2.geojson", [square(1, 1, 4, "new")])
    with pytest.raises(AnnotationError, match=r"project/masks/cells_1.tif: exists already.*import cells_1 again.$"):
        take()
    assert snapshot() == before and os.listdir("project").count(".importing") == 0
    os.remove("drawn/cells_1.geojson")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save("project/images/cells_2.png")
    with pytest.raises(AnnotationError, match="project/images/cells_2.png: is another image than raw/cells_2.png"):
        take()
    os.remove("project/images/cells_2.png")
    assert snapshot() == before
    take()
    assert read_instances("project/masks/cells_2.tif").any()


def test_all_mistakes_are_told_at_once(home):
    put("cells_1.geojson", [square(100, 1, 4), square(1.6, 1.6, 0.2), square(1, 1, 3)])
    put("cells_2.json", {"shapes": [], "imageHeight": 500, "imageWidth": 600, "imagePath": "cells_2.png"})
    put("cells_3.roi", b"nothing")
    with pytest.raises(AnnotationError) as error:
        take()
    lines = str(error.value).splitlines()
    assert len(lines) == 4 and all(line.startswith("drawn/cells_") for line in lines)
    assert "columns 100 to 104, outside the image of 12 x 16 pixels" in lines[0]
    assert "object 2: it covers no pixel" in lines[1]
    assert "is for 500 x 600 pixels, but cells_2.png has 12 x 16" in lines[2]
    assert "cannot be read as an ImageJ ROI" in lines[3]
    assert not pathlib.Path("project").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda: put("other.geojson", [square(1, 1, 2)]), "other.geojson: belongs to no image in raw"),
        (lambda: None, "drawn: holds no annotation files"),
        (lambda: os.rmdir("drawn"), "drawn: there is no such file or folder; --annotations"),
        (lambda: put("cells_1.csv", b"a,b\n"), "cells_1.csv: needs the columns index"),
        (lambda: put("cells_1.geojson", b"\xff\xfe"), "cells_1.geojson: is not readable JSON"),
        (lambda: put("cells_1.tif", b"II*"), "cells_1.tif: cannot be read as an image"),
        (lambda: (put("cells_1.geojson", [square(1, 1, 2)]), open("raw/cells_1.tif", "w")), "has the same name"),
    ],
)
def test_what_cannot_be_imported(home, change, words):
    change()
    with pytest.raises(AnnotationError, match=words):
        take()


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("classes.csv", "name;id;class\n", "classes.csv: needs the columns name, id and class"),
        ("classes.csv", "name,id,class\ncells_1,one,a\n", "classes.csv: line 2: needs a name, an integer id"),
        ("project.toml", "class_names = nucleus\n", "project.toml: is not TOML"),
        ("project.toml", 'class_names = "nucleus"\n', "project.toml: class_names must be a list"),
        ("project.toml", 'class_names = ["a]"]\n', "project.toml: cannot be extended; write this into it"),
    ],
)
def test_tables_that_cannot_be_extended(home, name, text, words):
    put("cells_1.geojson", [square(1, 1, 2, "b")])
    pathlib.Path("project").mkdir()
    pathlib.Path("project", name).write_text(text)
    with pytest.raises(AnnotationError, match=words):
        take()
    assert files() == [name] and pathlib.Path("project", name).read_text() == text
