"""What the programs in launch/ share: flags, and the one sentence that a mistake ends with."""

from __future__ import annotations

import sys
from typing import NoReturn

from absl import flags

INTERRUPTED = 130  # what a shell reports after Ctrl-C


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line; a mistake in it ends the program with one sentence."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(" ".join(str(error).split()))


def fail(message: object, code: int = 2) -> NoReturn:
    """Ends the program with a sentence on stderr and this exit status."""
    print(message, file=sys.stderr)
    sys.exit(code)
