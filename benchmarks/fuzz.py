"""Gives every reader ten thousand damaged files and notes what it does with them.

  python benchmarks/fuzz.py                     writes benchmarks/results/fuzz.json, after each reader
  python benchmarks/fuzz.py --readers tiff png  does these again, and leaves the others in the file as they are

The status is 1 if one of them failed: neither read a file nor said a sentence.
The files and what is expected of a reader stand in tests/fuzzing.py; tests/test_fuzz.py tries a hundred of each.
"""

import argparse
import collections
import importlib.metadata
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

import hypothesis
from hypothesis import strategies as st

from rams_jax import outputs

ROOT = pathlib.Path(__file__).resolve().parents[1]
MEMORY = 8 * 2**30  # bytes of addresses, more than which no file may cost
SECONDS = 60  # of the processor, more than which no file may cost
PACKAGES = ("hypothesis", "tifffile", "bioio", "imageio", "pillow", "roifile", "shapely", "pydicom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", nargs="+", help="all, if left out")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import fuzzing

    environment = outputs.environment()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = json.loads(options.out.read_text())["readers"] if options.readers and options.out.exists() else {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        place = pathlib.Path(name)
        readers = fuzzing.readers(place)
        tried = options.readers or list(readers)
        for reader in tried:
            found[reader] = fuzz(readers[reader], place / "case", options.cases, options.seed)
            shown = {key: value for key, value in found[reader].items() if key != "failures"}
            print(reader, shown, *found[reader]["failures"], sep="\n  ", flush=True)
            found[reader] |= {"seed": options.seed, "commit": environment["commit"]}
            content = {
                "command": " ".join(["python", "benchmarks/fuzz.py", *sys.argv[1:]]),
                "readers": {key: found[key] for key in readers if key in found},
                "memory_limit_mib": MEMORY // 2**20,
                "packages": {package: importlib.metadata.version(package) for package in PACKAGES},
                **{key: environment[key] for key in ("device", "versions")},
            }
            options.out.write_text(json.dumps(content, indent=1) + "\n")
    if any(found[reader]["failures"] for reader in tried):
        sys.exit(1)


class TooLong(BaseException):
    """Which no reader catches and takes for a damaged file."""


def stop(*unused: Any) -> None:
    raise TooLong(f"more than {SECONDS} s")


def fuzz(reader: Any, folder: pathlib.Path, cases: int, seed: int) -> dict[str, Any]:
    """How many files were read and refused, the longest time (s) that one took, and each kind of failure once."""
    import fuzzing

    counts: collections.Counter[str] = collections.Counter()
    failures: dict[str, str] = {}
    slowest = 0.0
    folder.mkdir(exist_ok=True)
    signal.signal(signal.SIGPROF, stop)

    def check(data: st.DataObject) -> None:
        nonlocal slowest
        content = data.draw(fuzzing.damaged(reader.seeds))
        for path in folder.iterdir():
            path.unlink() if path.is_file() else None
        began = time.process_time()
        try:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            counts[fuzzing.outcome(reader, folder, content)] += 1
        except (Exception, TooLong) as error:
            counts["failed"] += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__} at {pathlib.Path(where.filename).name}:{where.lineno}"
            if kind not in failures:
                failures[kind] = f"{kind}: {str(error)[:200]!r}"
                if os.environ.get("FUZZ_KEEP"):
                    kept = pathlib.Path(os.environ["FUZZ_KEEP"]) / f"{len(failures)}-{reader.name}"
                    kept.write_bytes(content)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        slowest = max(slowest, time.process_time() - began)

    settings = hypothesis.settings(
        max_examples=cases,
        derandomize=False,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.seed(seed)(settings(hypothesis.given(st.data())(check)))()
    return {"cases": sum(counts.values()), **counts, "slowest": round(slowest, 2), "failures": list(failures.values())}


if __name__ == "__main__":
    main()
