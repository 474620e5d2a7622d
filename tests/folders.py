"""A healthy annotated folder, and what can be done to it."""

import pathlib
import shutil

import numpy as np
import tifffile
from PIL import Image

SIZE = (24, 30)
SPLITS = dict(zip("abcdef", ["train", "train", "validation", "test", "train", "train"], strict=True))
HALF_MICROMETRE = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}


def noise(seed, size=SIZE):
    return np.random.default_rng(seed).integers(0, 999, size, np.uint16)


def objects():
    """Object 1 of 10 x 10 and object 4 of 10 x 12 pixels."""
    full = np.zeros(SIZE, np.uint16)
    full[2:12, 3:13], full[12:22, 15:27] = 1, 4
    return full


def marks():
    """9 pixels in object 1, 6 in object 4."""
    partial = np.zeros(SIZE, np.uint16)
    partial[5:8, 6:9], partial[15:18, 18:20] = 1, 4
    return partial


def healthy(path):
    """Six images: a, b (to train), c, d (validation, test) have full masks; a, e, f (to train) marks."""
    for seed, name in enumerate(SPLITS):
        write(path / "images" / f"{name}.tif", noise(seed), **HALF_MICROMETRE)
        if name in "abcd":
            write(path / "masks" / f"{name}.tif", objects())
        if name in "aef":
            write(path / "partial" / f"{name}.tif", marks())
    write_splits(path, SPLITS)
    return path


def write(path, array, **options):
    """A TIFF in place of whatever of that name was there."""
    path.parent.mkdir(exist_ok=True, parents=True)
    colour = array.ndim == 3 and array.shape[-1] == 3
    tifffile.imwrite(path, array, photometric="rgb" if colour else "minisblack", **options)


def write_splits(path, splits):
    (path / "splits.csv").write_text("name,split\n" + "".join(f"{name},{kind}\n" for name, kind in splits.items()))


def edited(array, *changes):
    """A copy with `value` in `box` for each (box, value)."""
    array = array.copy()
    for box, value in changes:
        array[box] = value
    return array


def squares(*ids):
    """Up to four objects of 6 x 6 pixels, 8 and 12 pixels apart."""
    full = np.zeros(SIZE, np.uint16)
    for index, (row, column) in zip(ids, ((2, 2), (2, 20), (16, 2), (16, 20)), strict=False):
        full[row : row + 6, column : column + 6] = index
    return full


# What follows makes changes: functions of the folder's path.


def remove(*names):
    def change(path):
        for name in names:
            target = path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def move(old, new):
    def change(path):
        (path / new).parent.mkdir(exist_ok=True)
        (path / old).rename(path / new)

    return change


def text(name, content):
    """A file with this text or these bytes."""
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: (path / name).write_bytes(data)


def put(name, array, **options):
    """An image or a map, instead of the one that is there."""
    return lambda path: write(path / f"{name}.tif", array, **options)


def image(array, name="b"):
    return put(f"images/{name}", array, **HALF_MICROMETRE)


def both(*changes):
    def change(path):
        for one in changes:
            one(path)

    return change


def splits(**changes):
    """The splits of the healthy folder, with changes; None takes an image out of the table."""
    table = {name: kind for name, kind in (SPLITS | changes).items() if kind is not None}
    return lambda path: write_splits(path, table)


def project(content):
    return text("project.toml", content + "\n")


def classes(*changes, names='class_names = ["bubble", "ice"]'):
    """Object 1 of each image is a bubble and object 4 is ice, but for (line, what stands there instead)."""
    lines = [f"{name},{i},{kind}" for name in SPLITS for i, kind in ((1, "bubble"), (4, "ice"))]
    for old, new in changes:
        lines[lines.index(old) : lines.index(old) + 1] = [new] if new else []
    table = text("classes.csv", "name,id,class\n" + "\n".join(lines) + "\n")
    outlined = both(put("masks/e", objects()), put("masks/f", objects()))
    return both(table, outlined, project(names)) if names else table


def jpeg(path: pathlib.Path):
    """The mask of b as a JPEG."""
    (path / "masks" / "b.tif").unlink()
    Image.fromarray(objects().astype(np.uint8)).save(path / "masks" / "b.jpg")


def truncated(path: pathlib.Path):
    """The first half of image b."""
    file = path / "images" / "b.tif"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def overflow(path: pathlib.Path):
    """300 objects of 2 x 2 pixels in b, numbered in 8 bits."""
    ids = np.arange(1, 301).astype(np.uint8).reshape(15, 20)
    full = np.kron(ids, np.pad(np.ones((2, 2), np.uint8), ((0, 2), (0, 2))))
    image(noise(1, full.shape))(path)
    put("masks/b", full)(path)


def more_marked(*maps):
    """More marked images to train, g, h, ..., with these marks."""

    def change(path):
        for seed, (name, partial) in enumerate(zip("ghijk", maps, strict=False), start=10):
            image(noise(seed), name)(path)
            put(f"partial/{name}", partial)(path)
        write_splits(path, SPLITS | dict.fromkeys("ghijk"[: len(maps)], "train"))

    return change
