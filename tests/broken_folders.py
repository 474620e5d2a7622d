"""Every way to break an annotated folder that we could think of, and what is said of it: a table."""

import dataclasses
import pathlib
from collections.abc import Callable

import folders
import numpy as np
from folders import (
    both,
    classes,
    edited,
    image,
    marks,
    move,
    noise,
    objects,
    project,
    put,
    remove,
    splits,
    squares,
    text,
)
from scipy import ndimage


@dataclasses.dataclass(frozen=True)
class Broken:
    kind: str  # what is wrong
    code: str  # of the one finding
    words: str  # that its sentence holds, with * for others between them
    change: Callable[[pathlib.Path], object]
    error: bool = True


def warning(*args):
    return Broken(*args, error=False)


BOX = np.s_
SMOOTH = np.rint(ndimage.uniform_filter(255.0 * (objects() > 0), 3)).astype(np.uint8)
RESIZED = np.rint(ndimage.zoom(objects()[::2, ::2].astype(float), 2, order=1)).astype(np.uint16)
BROKEN = (
    # Files.
    Broken("no folder", "no-folder", "there is no such folder; name one that holds images/", remove(".")),
    Broken("no images/", "no-images", "no images; put them into *images", remove("images")),
    Broken(
        "masks/ misspelt", "misnamed", "mask: nothing of this name is read; rename it to masks", move("masks", "mask")
    ),
    Broken("images/ misspelt", "misnamed", "Images: nothing * rename it to images", move("images", "Images")),
    Broken(
        "table misspelt", "misnamed", "split.csv: nothing * rename it to splits.csv", move("splits.csv", "split.csv")
    ),
    Broken("nothing annotated", "no-annotation", "no annotations; put full masks into", remove("masks", "partial")),
    Broken("an image without", "no-annotation", "f.tif: no annotation; draw *f.tif", remove("partial/f.tif")),
    Broken("mask without image", "no-image", "x.tif: belongs to no image* remove it", put("masks/x", objects())),
    Broken(
        "mask named otherwise",
        "no-image",
        "f_mask.tif: * rename it to f.tif",
        move("partial/f.tif", "partial/f_mask.tif"),
    ),
    Broken(
        "strokes without image", "no-image", "interfaces/x.tif: belongs to no image", put("interfaces/x", objects())
    ),
    Broken("two images of a name", "same-name", "e.tif: e.ome.tif has the same name", image(noise(4), "e.ome")),
    Broken(
        "annotation of a tool", "not-an-image", "g.json: is not an image; bring it in with", text("masks/g.json", "{}")
    ),
    warning(
        "text among images", "not-an-image", "notes.txt: is not an image; remove it", text("images/notes.txt", "hm")
    ),
    warning("images in a subfolder", "subfolder", "more: is a folder* move them up", image(noise(9), "more/g")),
    Broken("JPEG mask", "lossy-mask", "b.jpg: JPEG changes the ids", folders.jpeg),
    # Images.
    Broken("half an image", "image", "b.tif: cannot be read as an image", folders.truncated),
    Broken("text named .tif", "image", "b.tif: cannot be read as an image", text("images/b.tif", "not pixels")),
    Broken("empty file", "image", "b.tif: cannot be read as an image", text("images/b.tif", "")),
    Broken("stack", "image", "b.tif: holds 4 planes", put("images/b", noise(1, (4, 24, 30)))),
    Broken("NaN", "image", "b.tif: holds NaN", image(edited(np.ones((24, 30), np.float32), (BOX[3, 4], np.nan)))),
    warning("one grey", "blank-image", "b.tif: all pixels are the same", image(np.full((24, 30), 7, np.uint8))),
    Broken("colour among grey", "channels", "b.tif: has 3 channels, but a.tif has 1", image(noise(1, (24, 30, 3)))),
    Broken(
        "channel not there",
        "channels",
        "asks for channels [0, 2], but * only 0 to 0",
        both(project("channels = [0, 2]"), *(image(noise(s, (24, 30, 3)), n) for s, n in enumerate("abcde"))),
    ),
    warning(
        "magnifications",
        "pixel-sizes",
        "from 0.5 (a) to 2 micrometres (b)",
        put("images/b", noise(1), resolution=(5e3, 5e3), resolutionunit="CENTIMETER"),
    ),
    # Masks.
    Broken("half a mask", "mask", "b.tif: cannot be read as an image", text("masks/b.tif", b"II*\0")),
    Broken(
        "mask of another size", "mask", "b.tif: 24 x 29 pixels, but b.tif has 24 x 30", put("masks/b", objects()[:, 1:])
    ),
    Broken("mask on its side", "mask", "30 x 24 pixels, but * (it lies on its side)", put("masks/b", objects().T)),
    Broken("colour mask", "mask", "a mask with 3 channels", put("masks/b", np.stack([objects()] * 3, -1))),
    Broken("float mask", "mask", "a mask of float32; save", put("masks/b", objects().astype(np.float32))),
    Broken("negative id", "mask", "the mask holds -1; ids", put("masks/b", objects().astype(np.int16) - 1)),
    Broken(
        "large id",
        "mask",
        "holds the id 65535; the largest one possible is 32767",
        put("masks/b", edited(objects(), (BOX[:2], 65535))),
    ),
    Broken("stack of masks", "mask", "holds 2 planes", put("masks/b", np.stack([objects()] * 2))),
    Broken(
        "255 for unlabelled",
        "unlabelled",
        "value 255 stands alone above the ids 1 to 2",
        put("masks/b", edited(squares(1, 2), (BOX[20:], 255))),
    ),
    Broken("8 bits overflown", "id-overflow", "none is above 255: numbered beyond 255 in 8 bits", folders.overflow),
    Broken("anti-aliased", "blurred-mask", "rims of objects have values between", put("masks/b", SMOOTH)),
    Broken("resized linearly", "blurred-mask", "resize by nearest neighbour", put("masks/b", RESIZED)),
    Broken(
        "not numbered",
        "binary-mask",
        "4 separate objects share the id 255",
        put("masks/b", squares(255, 255, 255, 255)),
    ),
    warning(
        "an id twice", "reused-id", "object 2 has another piece * row 16, column 2", put("masks/b", squares(1, 2, 2, 4))
    ),
    warning("slips of the brush", "speck", "such as 9 (1 in all)", put("masks/b", edited(objects(), (BOX[4, 20], 9)))),
    warning(
        "marks for a full mask", "partial-among-full", "objects are of 8 pixels, others of 110", put("masks/b", marks())
    ),
    # Marks.
    Broken("marks of another size", "mask", "e.tif: 23 x 30 pixels, but", put("partial/e", marks()[1:])),
    Broken("colour marks", "mask", "a mask with 3 channels", put("partial/e", np.stack([marks()] * 3, -1))),
    Broken(
        "mark beyond its object",
        "mark-outside",
        "mark of object 4 leaves its own full mask at 3 pixels, first at row 9",
        put("partial/a", edited(marks(), (BOX[9:12, 18], 4))),
    ),
    Broken(
        "mark over two",
        "mark-over-two",
        "mark of object 4 lies over objects 1 and 4",
        put("partial/a", edited(marks(), (BOX[10:15, 12:19], 4))),
    ),
    Broken(
        "numbered otherwise",
        "mark-renumbered",
        "mark 1 lies in object 4 (1 more likewise)",
        put("partial/a", np.where(marks() > 0, 5 - marks(), 0).astype(np.uint16)),
    ),
    warning(
        "an object unmarked",
        "unmarked",
        "object 4 of the full mask carries no mark",
        put("partial/a", marks() * (marks() == 1)),
    ),
    warning("no mark at all", "no-marks", "e.tif: holds no mark, as if", put("partial/e", 0 * marks())),
    warning("full mask copied", "marks-full", "cover 100% of the objects", put("partial/a", objects())),
    Broken(
        "marks not numbered", "binary-mask", "4 separate marks share the id 1", put("partial/e", squares(1, 1, 1, 1))
    ),
    warning(
        "an id of two marks", "reused-id", "mark 1 has 2 pieces over 24 pixels", put("partial/e", squares(1, 2, 3, 1))
    ),
    warning(
        "a full mask for marks",
        "full-among-partial",
        "of 110 pixels, like objects * move it to",
        both(put("partial/e", objects()), folders.more_marked(marks(), marks())),
    ),
    warning(
        "masks and marks swapped",
        "swapped",
        "objects in masks/ are smaller (8 pixels) than marks",
        both(
            *(put(f"masks/{n}", marks()) for n in "abcd"),
            *(put(f"partial/{n}", objects()) for n in "ef"),
            folders.more_marked(objects()),
            put("partial/a", edited(0 * marks(), (BOX[5, 6], 1), (BOX[15, 18], 4))),
        ),
    ),
    Broken("strokes of another size", "mask", "background/e.tif: 24 x 29", put("background/e", 0 * marks()[:, 1:])),
    Broken(
        "strokes of white",
        "strokes",
        "strokes for separation hold 255, but may hold 0 to 2",
        put("interfaces/e", 255 * (marks() > 0).astype(np.uint8)),
    ),
    warning(
        "stroke over a mark",
        "stroke-on-mark",
        "lie on marks of objects at 15 pixels",
        put("background/e", (marks() > 0).astype(np.uint8)),
    ),
    # project.toml.
    Broken("not TOML", "project-syntax", "project.toml: is not TOML", project("pixel_size: 0.5")),
    Broken(
        "class names without list",
        "project-value",
        'class_names is ["ice", 3], but',
        both(classes(), project('class_names = ["ice", 3]')),
    ),
    Broken("not UTF-8", "project-syntax", "project.toml: is not UTF-8", text("project.toml", b"# \xb5m\n")),
    Broken("unknown key", "project-key", "no key 'pixelsize'; did you mean pixel_size?", project("pixelsize = 1")),
    Broken(
        "negative size", "project-value", "pixel_size is -1, but must be a number above 0", project("pixel_size = -1")
    ),
    Broken(
        "one class name", "project-value", 'class_names is "ice", but must be a list', project('class_names = "ice"')
    ),
    Broken(
        "no such image",
        "project-value",
        "there is no image 'e.tif'; give names without",
        project('incomplete = ["e.tif"]'),
    ),
    # classes.csv.
    Broken("no header", "classes-table", "needs the columns name, id and class", text("classes.csv", "a,1,ice\n")),
    Broken(
        "unknown class", "classes-table", "no class 'buble'; did you mean bubble?", classes(("e,1,bubble", "e,1,buble"))
    ),
    Broken(
        "class of no image", "classes-table", "line 14: there is no image 'x'", classes(("f,4,ice", "f,4,ice\nx,4,ice"))
    ),
    Broken("id in letters", "classes-table", "line 14: the id is 'four'", classes(("f,4,ice", "f,4,ice\nf,four,ice"))),
    Broken(
        "object listed twice",
        "classes-table",
        "object 4 of f is listed twice",
        classes(("f,4,ice", "f,4,ice\nf,4,ice")),
    ),
    Broken("object without class", "classes-table", "object 4 of e has no class", classes(("e,4,ice", ""))),
    Broken("class of no object", "classes-table", "f has no object 5", classes(("f,4,ice", "f,4,ice\nf,5,ice"))),
    Broken("no classes.csv", "classes-table", "names 2 classes, but there is no", project('class_names = ["a", "b"]')),
    Broken("order of classes", "classes-unnamed", 'write class_names = ["bubble", "ice"]', classes(names="")),
    Broken(
        "class not outlined",
        "class-absent",
        "shows an object of class ice",
        classes(*((f"{n},4,ice", f"{n},4,bubble") for n in "abef")),
    ),
    # splits.csv and what there is to learn from.
    Broken(
        "semicolons", "splits-table", "needs the columns name and split", text("splits.csv", "name;split\na;train\n")
    ),
    Broken("empty table", "splits-table", "holds no lines below name and split", text("splits.csv", "name,split\n")),
    Broken("split of no image", "splits-table", "line 8: there is no image 'x'", splits(x="train")),
    Broken("no such split", "splits-table", "line 6: e is for 'training', but", splits(e="training")),
    Broken("image listed twice", "splits-table", "line 8: a is listed twice", splits(**{" a": "train"})),
    Broken("image not listed", "splits-table", "e is missing; list every image", splits(e=None)),
    Broken("nothing to test", "splits-table", "no image is for test", splits(d="train")),
    Broken("test without mask", "splits-table", "line 6: e is for test, but has no full mask", splits(e="test")),
    Broken(
        "two outlined",
        "few-outlined",
        "2 images have a full mask, but three are needed",
        both(
            remove("masks/a.tif", "splits.csv"),
            remove("masks/b.tif"),
            put("partial/b", marks()),
            put("partial/c", marks()),
        ),
    ),
    Broken("none to train", "no-strong", "no training image has a full mask", splits(a="test", b="test")),
    warning("little outlined", "few-strong", "only 2 objects outlined", splits(b="test")),
    warning("marks simulated", "strong-unmarked", "no outlined training image has marks", remove("partial/a.tif")),
    warning(
        "image on two sides",
        "duplicate",
        "d.tif: nearly the same picture as b.tif (correlation 1.00)",
        image(noise(3) + np.uint16(5), "b"),
    ),
)
