"""Which images files, folders and patterns stand for."""

import pathlib

import pytest

from rams_jax.results import InferenceError, find_images


def test_files_folders_and_patterns(tmp_path):
    for name in ("a/x.tif", "a/y.png", "a/.hidden.tif", "a/notes.txt", "b/x.tif", "b/deep/z.ome.tiff", "b/[1].tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    def names(*paths):
        base, found = find_images([str(tmp_path / p) for p in paths])
        assert all(
            (base / f"{name}{path.name[len(pathlib.Path(name).name) :]}") == path for name, path in found.items()
        )
        return base.relative_to(tmp_path).as_posix(), list(found)

    assert names("a") == ("a", ["x", "y"])
    assert names("a/x.tif") == ("a", ["x"])
    assert names("a/notes.txt") == ("a", ["notes"])  # whoever names a file may be right
    assert names("a", "a/x.tif") == ("a", ["x", "y"])
    assert names("*/x.tif") == (".", ["a/x", "b/x"])
    assert names("b/**/*.tif*") == ("b", ["[1]", "deep/z", "x"])
    assert names("b/[1].tif") == ("b", ["[1]"])  # a name before a pattern


@pytest.mark.parametrize(("path", "words"), [("none", "no such file"), ("*.tif", "fits none"), ("empty", "no images")])
def test_no_images_get_a_sentence(tmp_path, path, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InferenceError, match=words):
        find_images([str(tmp_path / path)])


def test_two_images_of_one_name_get_a_sentence(tmp_path):
    for name in ("x.tif", "x.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InferenceError, match=r"x\.tif: x\.png has the same name"):
        find_images([str(tmp_path)])
