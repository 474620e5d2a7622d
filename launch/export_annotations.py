"""Writes the grown masks of a run for the tool in which they are to be corrected.

  python launch/export_annotations.py --workdir=RUN --out=DIR --format=roi

DIR gets one file an image: a zip for the ROI Manager of ImageJ and Fiji (roi), GeoJSON for QuPath (geojson), or an
instance map for napari and others (labels). Outlines follow the edges of the pixels, so that
launch/import_annotations.py gives back the same map. --what=predictions writes the predictions of the test images
instead. RUN may also be any folder of instance maps.
"""

import pathlib

from absl import app, flags

from rams_jax import commandline
from rams_jax.exchange import ENDINGS

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a folder of instance maps (TIFF)")
_OUT = flags.DEFINE_string("out", None, "Folder for the files; made if missing")
_FORMAT = flags.DEFINE_enum("format", None, tuple(ENDINGS), "ROI zips for Fiji, GeoJSON for QuPath, or label TIFFs")
_WHAT = flags.DEFINE_enum("what", "masks", ("masks", "predictions"), "Grown masks, or predictions of the test images")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        commandline.fail(f"What does {argv[1]} mean? Options are written as --format=roi.")
    for flag in (_WORKDIR, _OUT, _FORMAT):
        if not flag.value:
            commandline.fail(f"--{flag.name} is missing; see python launch/export_annotations.py --help")
    # Not before, so that a mistyped option is answered at once.
    from rams_jax.annotations import AnnotationError
    from rams_jax.exchange.exporting import export_annotations

    workdir, out = (pathlib.Path(flag.value).expanduser() for flag in (_WORKDIR, _OUT))
    try:
        count = export_annotations(workdir, out, _FORMAT.value, _WHAT.value)
    except AnnotationError as error:
        commandline.fail(error)
    except KeyboardInterrupt:
        commandline.fail(f"Stopped; what was written so far is in {out}.", commandline.INTERRUPTED)
    print(f"{count} images -> {out}")


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
