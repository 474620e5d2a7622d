"""Trains one peer on what our own runs see, and scores it with our metrics and, once, with its own.

  python benchmarks/peers/run.py --peer=forest --config=configs/histology.py --config.seed=0 --workdir=runs/forest

`python benchmarks/compare.py --methods forest ...` calls it and keeps its summary.json as a cell.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import resource
import time
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
# Read when the tools are imported; more threads than cores slow all of them down.
os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(CORES))

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from rams_jax import commandline  # noqa: E402
from rams_jax import config as settings  # noqa: E402

# Module of each peer, and what must be installed for it.
PEERS = {
    "forest": ("forest", "sklearn"),
    "monai": ("unet", "monai"),
    "nnunet": ("nnunet", "nnunetv2"),
    "stardist": ("star", "stardist"),
    "cellpose": ("flows", "cellpose"),
}
NOT_INSTALLED = 69  # exit status

_PEER = flags.DEFINE_enum("peer", None, list(PEERS), "Which peer", required=True)
_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/histology.py", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what it writes", required=True)


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if importlib.util.find_spec(PEERS[_PEER.value][1]) is None:
        commandline.fail(f"{_PEER.value} is not installed; pip install -e .[bench]", NOT_INSTALLED)
    from rams_jax.annotations import AnnotationError

    try:
        settings.validate(_CONFIG.value)
        summary = run(_PEER.value, _CONFIG.value, pathlib.Path(_WORKDIR.value))
    except (settings.ConfigError, AnnotationError) as error:
        commandline.fail(error)
    print(json.dumps({"test": summary["test"], "own": summary["own"]}))


def run(name: str, config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """The summary of a peer, in the form of our own runs; it is also written to the workdir.

    Raises:
      ConfigError: the tool cannot do this task; the message says why.
      AnnotationError: the data set cannot be had or used.
    """
    import shared

    from rams_jax.evaluate import score_instances
    from rams_jax.outputs import environment
    from rams_jax.types import InstanceSettings

    peer = importlib.import_module(PEERS[name][0])
    task, validation, test = shared.load(config)
    workdir.mkdir(parents=True, exist_ok=True)
    start, spent = time.perf_counter(), cpu_seconds()
    predict = peer.train(task, str(workdir / name))
    seconds, spent = time.perf_counter() - start, cpu_seconds() - spent
    answers = predict([example.image for example in test])
    found, chosen = answers, None
    if peer.SEMANTIC:
        on_validation = predict([example.image for example in validation])
        given = InstanceSettings(**config.instances, dividing=(), beginning=())
        found, tuned = shared.divide(validation, on_validation, answers, given)
        chosen = {key: getattr(tuned, key) for key in ("threshold", "marker_sigma", "marker_depth")}
    known = environment()
    known["versions"] |= {package: importlib.metadata.version(package) for package in peer.PACKAGES}
    summary = {
        "method": name,
        "data": config.data.name,
        "seed": config.seed,
        "strong": len(task.outlined),
        "weak": len(task.marked) if peer.SEMANTIC else 0,
        "steps": peer.STEPS,
        "instances": chosen,
        "test": score_instances(test, [f[0] for f in found], [f[1] for f in found], task.number_of_classes),
        "own": peer.own_scores(test, answers),
        "masks": None,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(spent, 1),
        "warnings": [],
        **known,
    }
    (workdir / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def cpu_seconds() -> float:
    """What this process and those that it has started took, whatever else the machine was doing."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


if __name__ == "__main__":
    app.run(main)
