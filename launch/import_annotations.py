"""Brings annotations that were drawn in another tool into a folder to train from.

  python launch/import_annotations.py --images=IMAGES --annotations=FILES --out=FOLDER --kind=full

IMAGES and FILES are a file or a folder each. FILES are ImageJ or Fiji ROIs (.roi, or a zip of the ROI Manager), QuPath
GeoJSON, napari shapes (.csv) or labels (.tif), labelme JSON, or one COCO JSON for many images. A file belongs to the
image of the same name (so do RoiSet_NAME.zip and NAME_labels.tif), or to the one it names inside. --kind says what was
drawn:

  full        every object outlined        -> FOLDER/masks
  partial     a rough mark in each object  -> FOLDER/partial
  interfaces  strokes where objects touch  -> FOLDER/interfaces
  boundaries  strokes on boundaries        -> FOLDER/boundaries
  background  strokes on background        -> FOLDER/background

Images are copied to FOLDER/images; classes go to FOLDER/classes.csv and project.toml. Nothing is overwritten, and
nothing is written if there is any mistake.
"""

import pathlib
import sys

from absl import app, flags

from rams_jax import commandline
from rams_jax.exchange import FOLDERS, FORMATS

_IMAGES = flags.DEFINE_string("images", None, "An image, or a folder of images")
_ANNOTATIONS = flags.DEFINE_string("annotations", None, "An annotation file, or a folder of them")
_OUT = flags.DEFINE_string("out", None, "The folder to train from; made if missing")
_KIND = flags.DEFINE_enum("kind", None, tuple(FOLDERS), "What was drawn")
_FORMAT = flags.DEFINE_enum("format", None, FORMATS, "Of the annotation files; default: found from each file")
_WIDTH = flags.DEFINE_float("width", 3.0, "Of lines and points, pixels", lower_bound=1.0, upper_bound=1000.0)
_ONLY = flags.DEFINE_list("only", [], "Import the shapes of these classes only")
_CLASS_NAME = flags.DEFINE_string("class_name", None, "Class of the objects that carry none")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        commandline.fail(f"What does {argv[1]} mean? Options are written as --kind=full.")
    for flag in (_IMAGES, _ANNOTATIONS, _OUT, _KIND):
        if not flag.value:
            commandline.fail(f"--{flag.name} is missing; see python launch/import_annotations.py --help")
    # Not before, so that a mistyped option is answered at once.
    from rams_jax.annotations import AnnotationError
    from rams_jax.exchange.importing import Settings, import_annotations

    settings = Settings(_KIND.value, _FORMAT.value, _WIDTH.value, tuple(_ONLY.value), _CLASS_NAME.value)
    paths = (pathlib.Path(flag.value).expanduser() for flag in (_IMAGES, _ANNOTATIONS, _OUT))
    try:
        found = import_annotations(*paths, settings)
    except AnnotationError as error:
        commandline.fail(error)
    except KeyboardInterrupt:
        commandline.fail("Stopped; nothing was imported.", commandline.INTERRUPTED)
    for sentence in found.warnings:
        print(sentence, file=sys.stderr)
    objects = f" with {found.objects} objects" if settings.kind in ("full", "partial") else ""
    print(f"{found.images} images{objects} -> {pathlib.Path(_OUT.value, FOLDERS[settings.kind])}")


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
