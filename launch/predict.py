"""Segments images with a trained network.

  python launch/predict.py --workdir=runs/microscopy-rams-seed0 --images=FOLDER --out=DIR

FOLDER may be a file or a pattern too. The same command goes on where it stopped; finished images are skipped.
"""

import pathlib

from absl import app, flags, logging

from rams_jax import commandline

_WORKDIR = flags.DEFINE_string("workdir", None, "Finished run, or the folder `network` of one")
_IMAGES = flags.DEFINE_string("images", None, "Image, folder of images, or pattern such as 'FOLDER/**/*.tif'")
_OUT = flags.DEFINE_string("out", None, "Folder for the results; new, or of the same command")
_FORMAT = flags.DEFINE_enum("format", "tiff", ["tiff", "ome-zarr"], "Of the instance maps")
_PROBABILITIES = flags.DEFINE_bool("probabilities", False, "Write the probabilities of all tasks, 0..255")
_OVERLAYS = flags.DEFINE_bool("overlays", True, "Write pictures of the images with outlined objects")
_PIXEL_SIZE = flags.DEFINE_float("pixel_size", None, "Micrometres; default: what each file says", lower_bound=1e-6)
_HALO = flags.DEFINE_integer(
    "halo",
    None,
    "Pixels around blocks of large images; default: twice the largest object of training",
    lower_bound=0,
)
_TILE = flags.DEFINE_integer(
    "tile", 0, "Side of the tiles that the network sees, pixels; less takes less memory; default: found", lower_bound=0
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # jax warns of backends that it does not find, tifffile of files that fail
    for name, value in (("workdir", _WORKDIR.value), ("images", _IMAGES.value), ("out", _OUT.value)):
        if not value:
            commandline.fail(
                f"--{name} is missing; for example --workdir=runs/microscopy-rams-seed0 --images=FOLDER --out=DIR"
            )

    commandline.keep_compiled()
    # Not before, so that a mistyped flag is answered at once.
    from rams_jax import inference, network, predict, results

    wanted = inference.Wanted(
        format=_FORMAT.value,
        probabilities=_PROBABILITIES.value,
        overlays=_OVERLAYS.value,
        halo=_HALO.value,
        tile=_TILE.value,
        pixel_size=_PIXEL_SIZE.value,
    )
    out = pathlib.Path(_OUT.value).expanduser()
    try:
        # a shell that has expanded the pattern itself leaves the other files as further arguments
        base, images = results.find_images([_IMAGES.value, *argv[1:]])
        trained = network.load_network(pathlib.Path(_WORKDIR.value).expanduser())
        outcome = inference.infer(trained, base, images, out, wanted)
    except (network.NetworkError, results.InferenceError, predict.TileError) as error:
        commandline.fail(error)
    except OSError as error:
        commandline.fail(f"{error.filename or out}: {error.strerror}; the same command goes on from there.")
    except KeyboardInterrupt:
        commandline.fail("Stopped; the same command goes on with the images that are left.", commandline.INTERRUPTED)
    for note in outcome.notes:
        print(note)
    print(f"{outcome.finished} images segmented, {outcome.skipped} finished before: {out}")
    if outcome.failures:
        commandline.fail("\n".join([f"{len(outcome.failures)} of {len(images)} images failed:", *outcome.failures]), 1)


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
