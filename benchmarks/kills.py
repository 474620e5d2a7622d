"""Kills a run forty times, restarts it, and compares what becomes of it with the run that nobody killed.

  python benchmarks/kills.py     writes benchmarks/results/kills.json, on Linux
  python benchmarks/kills.py --places pictures report --kills 6 --out benchmarks/results/kills_pictures.json

A tiny run (`tests/synthetic.py`) is killed five times (SIGKILL) and then left alone, again and again: at times drawn
over its whole length, and, so that no phase is missed, at files that appear, or with a file half written. Steps and the
masks' turn are one compiled program, so a kill among the steps hits either.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from PIL import Image

from rams_jax import outputs, storage
from rams_jax.annotations import read_instances

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS = 60
SETTINGS = {
    "data.name": "folder", "data.strong": 2, "data.auxiliary": (), "model.width": 4, "model.depth": 2,
    "augment.crop": 16, "augment.elastic_grid": 8, "train.steps": STEPS, "train.warmup_steps": 3,
    "train.strong_crops": 4, "train.weak_crops": 4, "train.ema": 0.9, "train.learning_rate": 0.01, "train.log_every": 5,
    "train.evaluate_every": 20, "train.checkpoint_every": 10, "evolution.images_per_step": 2, "evolution.reach": 2,
}  # fmt: skip
_RUN = 5  # kills before a run is left alone
_PATIENCE = 3600.0  # seconds

# What a phase writes first, below the workdir.
PHASES = {
    "saving": "checkpoints/*.orbax-checkpoint-tmp",
    "results": "evolved/*.tif*",
    "predictions": "predictions/*.tif*",
    "network": "network/*",
}
# What is written too quickly for that.
FILES = {"pictures": ("figures/growth.png", "figures/curves.png"), "report": ("report.html",)}
_PAGE = 4096  # bytes, fewer than half of any of these files


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill."""

    name: str
    # Of the workdir, the time at which the process was started, and the processor time that it has spent, in seconds.
    come: Callable[[pathlib.Path, float, float], bool]
    delay: float = 0.0  # seconds after that


def after(seconds: float) -> Moment:
    """After so much processor time, which other programs on the machine do not change."""
    return Moment(f"after {seconds:.1f} s", lambda workdir, began, spent: spent >= seconds)


def at_row(step: int, delay: float) -> Moment:
    """When this start has logged the step, or gone on from beyond it."""

    def come(workdir: pathlib.Path, began: float, spent: float) -> bool:
        return _fresh(workdir, "tensorboard/*", began) and _row(workdir) >= step

    return Moment(f"row {step}", come, delay)


def at_phase(phase: str, delay: float) -> Moment:
    """When the phase has begun to write."""
    return Moment(phase, lambda workdir, began, spent: _fresh(workdir, PHASES[phase], began), delay)


def amid_file(name: str, file: str) -> Moment:
    """When a page of the file is written: a pipe in the place of the unfinished file holds the process up there."""
    pipe: list[io.FileIO] = []

    def come(workdir: pathlib.Path, began: float, spent: float) -> bool:
        unfinished = workdir / (file + storage.UNFINISHED)
        if not pipe:
            if not (workdir / "config.json").exists():  # it would not take the folder for its own
                return False
            unfinished.parent.mkdir(exist_ok=True)
            unfinished.unlink(missing_ok=True)
            os.mkfifo(unfinished)
            pipe.append(io.FileIO(os.open(unfinished, os.O_RDONLY | os.O_NONBLOCK)))
            fcntl.fcntl(pipe[0], fcntl.F_SETPIPE_SZ, _PAGE)
        written = pipe[0].read(_PAGE)
        if written:
            unfinished.unlink()
            unfinished.write_bytes(written)  # as a kill leaves it
        return bool(written)

    return Moment(name, come)


def at_place(place: str, rng: np.random.Generator) -> Moment:
    """At one of `PHASES` or `FILES`."""
    if place in FILES:
        return amid_file(place, FILES[place][rng.integers(len(FILES[place]))])
    return at_phase(place, rng.uniform(0, 0.1))


def command(folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    """What starts the run, and goes on with it."""
    settings = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    source = [f"--config.data.source={folder}", f"--workdir={workdir}"]
    return [
        sys.executable,
        str(ROOT / "launch" / "main.py"),
        f"--config={ROOT / 'configs' / 'microscopy.py'}",
        *settings,
        *source,
    ]


def run(folder: pathlib.Path, workdir: pathlib.Path, moment: Moment | None = None) -> str | None:
    """Starts the command, kills it at the moment or lets it end.

    Returns:
      What the process wrote last before it was killed, TensorBoard's buffer left out: a path below the workdir, or
      `nothing`; None: it ended before.

    Raises:
      RuntimeError: it failed by itself.
    """
    began = time.time()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(folder, workdir), cwd=ROOT, stdout=said, stderr=said)
        while process.poll() is None:
            if moment is not None and moment.come(workdir, began, _spent(process.pid)):
                time.sleep(moment.delay)
                process.send_signal(signal.SIGKILL)
                break
            if time.time() > began + _PATIENCE:
                process.kill()
            time.sleep(0.0005)
        code = process.wait()
        if code == 0:
            return None
        if moment is None or code != -signal.SIGKILL:
            said.seek(0)
            raise RuntimeError(f"ended with {code}: {said.read()[-2000:]}")
    files = [path for path in workdir.rglob("*") if path.is_file() and path.parent.name != "tensorboard"]
    mtime, last = max(((path.stat().st_mtime, path) for path in files), default=(0.0, workdir))
    return last.relative_to(workdir).as_posix() if mtime > began else "nothing"


def stop(folder: pathlib.Path, workdir: pathlib.Path) -> tuple[float, int]:
    """SIGTERM amid the steps: the seconds until the process has ended, and its status."""
    began = time.time()
    process = subprocess.Popen(command(folder, workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not at_row(5, 0.0).come(workdir, began, 0.0):
        time.sleep(0.0005)
    sent = time.time()
    process.terminate()
    code = process.wait()
    return round(time.time() - sent, 2), code


def torn(workdir: pathlib.Path) -> list[str]:
    """The files that bear their final names and cannot be read."""
    readers = {
        ".json": _json,
        ".tif": read_instances,
        ".png": lambda path: Image.open(path).verify(),
        ".npz": _arrays,
        ".html": _page,
    }
    found = []
    for path in sorted(workdir.rglob("*")):
        reader = readers.get(path.suffix)
        # of checkpoints only those count that are vouched for
        if reader is None or workdir / "checkpoints" in path.parents or not path.is_file():
            continue
        try:
            reader(path)
        except Exception as error:
            found.append(f"{path.relative_to(workdir)}: {error}")
    return found


def differences(found: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """Everything in which a finished run is not, to the bit, the other."""
    wrong = [f"{path.relative_to(found)} is left over" for path in found.rglob("*.tmp")]
    a, b = (dict(jax.tree_util.tree_leaves_with_path(_saved(workdir))) for workdir in (found, expected))
    wrong += [
        f"checkpoint: {jax.tree_util.keystr(k)}"
        for k in {*a, *b}
        if k not in a or k not in b or _bits(a[k]) != _bits(b[k])
    ]
    for name in ("evolved", "predictions", "figures", "network/parameters.npz"):
        here, there = ({p.relative_to(w): p for p in _files(w / name)} for w in (found, expected))
        read = _arrays if name.startswith("network") else pathlib.Path.read_bytes
        wrong += [str(k) for k in {*here, *there} if k not in here or k not in there or read(here[k]) != read(there[k])]
    here, there = (_json(workdir / "summary.json") for workdir in (found, expected))
    wrong += [
        f"summary: {key}" for key in ("test", "masks", "instances", "steps", "warnings") if here[key] != there[key]
    ]
    wrong += ["metrics.jsonl"] if _rows(found) != _rows(expected) else []
    return wrong


def plan(rng: np.random.Generator, seconds: float, places: Sequence[str]) -> Iterator[Moment]:
    """Moments without end, at these places by turns or, without any, of each five two at any time, one amid the steps,
    one amid a save, one at the end."""
    while places:
        yield from (at_place(place, rng) for place in places)
    endings = ["results", "pictures", "report", "predictions", "network"]
    for number in range(10**6):
        yield after(rng.uniform(0, seconds))
        yield at_row(int(rng.integers(1, STEPS - 20)), rng.uniform(0, 0.1))
        yield at_place("saving", rng)
        yield after(rng.uniform(0, 0.8 * seconds))  # it has come some way already
        yield at_place(endings[number % len(endings)], rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--places", nargs="+", choices=[*PHASES, *FILES], default=[], help="only these")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "benchmarks" / "results" / "kills.json")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import synthetic

    environment = {key: value for key, value in outputs.environment().items() if key != "peak_memory_mib"}
    environment["machine"] = platform.platform()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        place = pathlib.Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(place / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        folder = synthetic.write_folder(place / "data")
        run(folder, place / "first")  # compiles
        seconds = _children()
        run(folder, place / "whole")
        seconds = _children() - seconds
        stopped, status = stop(folder, place / "stopped")
        planned = plan(np.random.default_rng(options.seed), seconds, options.places)
        kills, ends = [], differences(place / "first", place / "whole")
        assert not ends, ends
        while len(kills) < options.kills:
            workdir = place / f"run{len(ends)}"
            for moment in (next(planned) for _ in range(_RUN)):
                hit = run(folder, workdir, moment) if len(kills) < options.kills else None
                if hit is not None:
                    kills.append({"run": len(ends), "moment": moment.name, "hit": hit, "torn": torn(workdir)})
                    print(f"{len(kills)}/{options.kills} {moment.name}: {hit}", flush=True)
            run(folder, workdir)
            ends.append(differences(workdir, place / "whole"))
            print(f"run {len(ends) - 1}: {ends[-1] or 'the same bits'}", flush=True)
    exact = [not wrong for wrong in ends]
    content = {
        "command": " ".join(["python", "benchmarks/kills.py", *sys.argv[1:]]),
        "kills": len(kills),
        "recovered": sum(exact[kill["run"]] for kill in kills),
        "torn": sum(bool(kill["torn"]) for kill in kills),
        "hit": collections.Counter(phase_of(kill["hit"]) for kill in kills),
        "seconds_of_a_run": round(seconds, 1),
        "sigterm": {"seconds": stopped, "status": status},
        "each": kills,
        "differences": ends,
        **environment,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    print(
        f"{content['recovered']} of {content['kills']} kills recovered to the bit, {content['torn']} left a torn file."
    )


def phase_of(hit: str) -> str:
    """What the run was at, from the file that it wrote last."""
    place = hit.partition("/")[0]
    if hit.endswith(storage.UNFINISHED) or place == "checkpoints" and not hit.endswith("/digests.json"):
        return f"writing {place.removesuffix(storage.UNFINISHED)}"
    return {"nothing": "start", "config.json": "start", "metrics.jsonl": "steps"}.get(place, f"after {place}")


def _spent(pid: int) -> float:
    """Processor time of a process that has not been waited for, in seconds; 0 where there is no /proc."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    """Processor time of all processes that have been waited for, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _fresh(workdir: pathlib.Path, pattern: str, began: float) -> bool:
    try:
        return any(path.stat().st_mtime > began for path in workdir.glob(pattern))
    except OSError:  # it has gone meanwhile
        return True


def _row(workdir: pathlib.Path) -> int:
    return max((row["step"] for row in _rows(workdir)), default=0)


def _rows(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without the times, and without a line that is being written."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines if line.endswith("}")]


def _saved(workdir: pathlib.Path) -> dict:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # the run may have had more devices

    def target(found: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(found.shape, found.dtype, sharding=here)

    path = workdir.absolute() / "checkpoints" / str(STEPS) / "default"
    with ocp.StandardCheckpointer() as reader:
        return reader.restore(path, jax.tree.map(target, reader.metadata(path).item_metadata.tree))


def _bits(array: np.ndarray) -> tuple:
    array = np.asarray(array)
    return array.dtype, array.shape, array.tobytes()


def _arrays(path: pathlib.Path) -> dict[str, tuple]:
    with np.load(path, allow_pickle=False) as content:
        return {name: _bits(content[name]) for name in content}


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    return [path] if path.is_file() else sorted(path.iterdir())


def _json(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def _page(path: pathlib.Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("the page is cut short")


if __name__ == "__main__":
    main()
