"""Says what would spoil training on a folder of your own images, before it costs you a training.

  python launch/check.py FOLDER
  python launch/check.py FOLDER --json

Each finding is a line with the file and what to do. Errors are what training refuses; warnings may be meant so. The
exit code is 0 if there is no error, 1 if there is one, 2 if the command itself is wrong. Nothing is changed.
"""

import json
import pathlib
import sys

from absl import app, flags

from rams_jax import commandline

_JSON = flags.DEFINE_bool("json", False, "Print the findings as JSON")
_SEED = flags.DEFINE_integer("seed", 0, "config.seed of the training, which splits the images where no splits.csv does")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        commandline.fail("Name one folder: python launch/check.py FOLDER")
    from rams_jax import check  # not before, so that a mistyped flag is answered at once

    result = check.check(pathlib.Path(argv[1]).expanduser(), _SEED.value)
    if _JSON.value:
        print(json.dumps(check.as_json(result), indent=1))
    else:
        print("\n".join(check.lines(result)))
    sys.exit(1 if result.errors else 0)


if __name__ == "__main__":
    app.run(main, flags_parser=commandline.parse_flags)
