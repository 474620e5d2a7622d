"""Exports a trained network for programs that know nothing of this one, and compares it with the network.

  python launch/export.py --workdir=runs/microscopy-rams-seed0 --out=DIR
  python launch/export.py --workdir=runs/microscopy-rams-seed0 --out=DIR --onnx=256

Writes StableHLO for images of any size, on demand ONNX for tiles of one size, and export.json on how to use them.
"""

import pathlib

from absl import app, flags, logging

from rams_jax import commandline

_WORKDIR = flags.DEFINE_string("workdir", None, "Finished run, or the folder `network` of one")
_OUT = flags.DEFINE_string("out", None, "New folder for the exported network")
_ONNX = flags.DEFINE_integer(
    "onnx", 0, "Side of the tiles that an ONNX file is made for, pixels; 0 = none", lower_bound=0
)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # jax tells of every backend that it does not find
    if len(argv) > 1:
        commandline.fail(f"What does {argv[1]} mean? Give --workdir=RUN and --out=DIR.")
    for name, value in (("workdir", _WORKDIR.value), ("out", _OUT.value)):
        if not value:
            commandline.fail(f"--{name} is missing; for example --workdir=runs/microscopy-rams-seed0 --out=DIR")

    # Not before, so that a mistyped flag is answered at once.
    from rams_jax import export, network

    out = pathlib.Path(_OUT.value).expanduser()
    try:
        trained = network.load_network(pathlib.Path(_WORKDIR.value).expanduser())
        differences = export.export_network(trained, out, _ONNX.value)
    except export.ParityError as error:
        commandline.fail(error, 1)
    except (network.NetworkError, export.ExportError) as error:
        commandline.fail(error)
    except OSError as error:
        commandline.fail(f"{error.filename or out}: {error.strerror}.")
    for name, difference in differences.items():
        print(f"{out / name}: probabilities differ from the network's by {difference:.1e} at most")


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
