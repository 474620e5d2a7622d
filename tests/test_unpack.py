"""A zip of an annotated folder: only what belongs there is written, and nowhere else."""

import pathlib
import shutil
import stat
import zipfile

import folders
import pytest

from rams_jax.annotations import AnnotationError
from rams_jax.check import check
from rams_jax.datasets import building
from rams_jax.exchange.files import unpack


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


def tree(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("around", [".", "cells", "data/my cells"])
def test_the_folder_comes_out_as_it_went_in(tmp_path, around):
    annotated = folders.healthy(tmp_path / "whole" / around)
    archive = shutil.make_archive(str(tmp_path / "whole"), "zip", tmp_path / "whole")
    found = unpack(pathlib.Path(archive), tmp_path / "not yet" / "out")
    assert found.resolve() == (tmp_path / "not yet" / "out" / around).resolve()
    assert tree(found) == tree(annotated)
    assert check(found).errors == 0


def test_what_macos_adds_is_left_out(tmp_path):
    members = {"cells/images/a.tif": b"a", "__MACOSX/cells/images/._a.tif": b"b", "cells/.DS_Store": b"c"}
    found = unpack(zipped(tmp_path / "z.zip", members), tmp_path / "out")
    assert found == tmp_path / "out" / "cells" and tree(tmp_path / "out") == {"cells/images/a.tif": b"a"}


@pytest.mark.parametrize(
    "name", ["../evil.tif", "images/../../evil.tif", "/tmp/evil.tif", "images\\..\\..\\evil.tif", "../out2/evil.tif"]
)
def test_a_way_out_of_the_folder_is_refused_before_anything_is_written(tmp_path, name):
    archive = zipped(tmp_path / "z.zip", {"images/a.tif": b"a", name: b"b"})
    with pytest.raises(AnnotationError, match=r"z\.zip: its file '.*evil\.tif' would land outside of the folder"):
        unpack(archive, tmp_path / "out")
    assert set(tree(tmp_path)) == {"z.zip"} and not (tmp_path / "out").exists()


def unpack_download(path, folder):
    """As the data sets do, into a folder beside it."""
    return building.unpack(path)


@pytest.mark.parametrize("function", [unpack, unpack_download])
def test_what_would_fill_the_disk_or_land_elsewhere_is_refused(tmp_path, function):
    archive = zipped(tmp_path / "z.zip", {"images/a.tif": b"a", "../evil.tif": b"b"})
    with pytest.raises(AnnotationError, match=r"z\.zip: its file '\.\./evil\.tif' would land outside of the folder"):
        function(archive, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("images/a.tif", b"a")
        archive.infolist()[0].file_size = 2**62
    with pytest.raises(AnnotationError, match=r"bomb\.zip: larger than the disk when unpacked; make room"):
        function(tmp_path / "bomb.zip", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"z.zip", "bomb.zip"}


def test_a_link_becomes_a_file(tmp_path):
    link = zipfile.ZipInfo("images/a.tif")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    path = unpack(tmp_path / "z.zip", tmp_path / "out") / "images" / "a.tif"
    assert not path.is_symlink() and path.read_text() == "/etc/passwd"


def test_without_images_the_checker_has_its_say(tmp_path):
    found = unpack(zipped(tmp_path / "z.zip", {"pictures/a.tif": b"a"}), tmp_path / "out")
    assert found == tmp_path / "out" and check(found).errors > 0


def test_what_cannot_be_unpacked(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(AnnotationError, match=r"a\.zip: cannot be read as a zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(AnnotationError, match="there: exists already and is not overwritten"):
        unpack(zipped(tmp_path / "b.zip", {"images/a.tif": b"a"}), tmp_path / "there")
