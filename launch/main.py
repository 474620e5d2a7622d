"""Trains and scores one experiment.

  python launch/main.py --config=configs/microscopy.py
  python launch/main.py --config=configs/microscopy.py:smoke --config.train.steps=40 --workdir=runs/try

The same command on the same workdir goes on where it stopped. All settings are explained in rams_jax/config.py.
"""

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from rams_jax import commandline
from rams_jax import config as settings

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment, such as configs/microscopy.py", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config>-<method>-seed<seed>")

_COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, if the run is of several processes")
_PROCESSES = flags.DEFINE_integer("processes", 1, "Number of processes", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", 0, "Which process this is, from 0", lower_bound=0)
_CLUSTER = flags.DEFINE_boolean("cluster", False, "Slurm, Open MPI, Kubernetes or a TPU pod says these three")

_EXAMPLE = "--config=configs/microscopy.py"


def main(argv: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # jax tells of every backend that it does not find
    if len(argv) > 1:
        commandline.fail(f"What does {argv[1]} mean? Settings are written as --config.train.steps=500.")
    config = _CONFIG.value
    try:
        settings.validate(config)
    except settings.ConfigError as error:
        commandline.fail(error)
    workdir = _WORKDIR.value or default_workdir(flags.FLAGS["config"].config_filename, config.method, config.seed)

    commandline.keep_compiled()
    commandline.keep_memory()
    several = _CLUSTER.value or _COORDINATOR.value or _PROCESSES.value > 1
    if not several:
        commandline.use_two_cores()
    # Not before, so that a mistyped setting is answered at once.
    from rams_jax import processes

    try:
        if several:
            processes.join(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
        summary = train(config, workdir)
    except processes.ProcessError as error:
        commandline.fail(error)
    except SystemExit as end:
        processes.end_at_once(end.code)
        raise
    if processes.first():
        print(score_line(summary))


def train(config: ConfigDict, workdir: str) -> dict[str, Any]:
    """The summary of the run; what goes wrong ends the program with a sentence."""
    from rams_jax import annotations, checkpoint, faults, processes, train

    try:
        if processes.first():
            print(f"workdir: {workdir}", flush=True)
        return train.train(config, workdir)
    except (settings.ConfigError, annotations.AnnotationError, checkpoint.WorkdirError, faults.NotFinite) as error:
        commandline.fail(error)
    except train.Interrupted as error:
        commandline.fail(error, commandline.INTERRUPTED)
    except (RuntimeError, ValueError) as error:  # processes.explain raises what no lost process explains
        commandline.fail(processes.explain(error), processes.LOST)
    except OSError as error:
        place = error.filename2 or error.filename or workdir
        commandline.fail(
            f"{place}: {error.strerror or error}; put that right, then give the same command again: it goes on from "
            "the last checkpoint."
        )
    except KeyboardInterrupt:  # before the first step, or twice
        commandline.fail("Stopped; the same command goes on from the last checkpoint.", commandline.INTERRUPTED)


def default_workdir(config_path: str, method: str, seed: int) -> str:
    """`runs/microscopy-smoke-rams-seed0` for `configs/microscopy.py:smoke`, method rams, seed 0; of a path, its end."""
    path, _, variant = config_path.partition(":")
    variant = pathlib.Path(variant).resolve().name if variant else ""
    words = [pathlib.Path(path).stem, re.sub(r"[^\w.=,-]+", "_", variant), method, f"seed{seed}"]
    return str(pathlib.Path("runs", "-".join(word for word in words if word)))


def score_line(summary: Mapping[str, Any]) -> str:
    """The scores of a run on its test images, and of its grown masks, in one line."""
    parts = [f"{summary['method']} on {summary['data']}, seed {summary['seed']}: test {_scores(summary['test'])}"]
    if summary.get("masks"):  # only methods that grow masks have them
        parts.append(f"grown masks {_scores(summary['masks'])}")
    if summary.get("circumference"):  # only where a person measured it
        parts.append(f"circumference in mm: {_scores(summary['circumference'])}")
    return "; ".join(parts)


def _scores(scores: Mapping[str, Any]) -> str:
    """Those of single classes, such as dice_1, are in summary.json only."""
    shown = {name: value for name, value in scores.items() if not re.search(r"_\d+$", name)}
    return ", ".join(
        f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )


def parse_flags(argv: list[str]) -> list[str]:
    """Reads the command line; every mistake in it ends the program with one sentence."""
    try:
        _check_names(argv)
        left = flags.FLAGS(argv)
        if _CONFIG.value is None:
            commandline.fail(f"--config is missing; for example {_EXAMPLE}")
        return left
    except settings.ConfigError as error:
        commandline.fail(error)
    except flags.Error as error:
        commandline.fail(_config_error(error) or _impossible_value(str(error)) or error)


def _check_names(argv: Iterable[str]) -> None:
    """Refuses settings and files that do not exist, of which ml_collections says less."""
    known = settings.flatten(settings.default())
    sections = {name.rsplit(".", 1)[0] for name in known if "." in name}
    argv = list(argv)
    for index, argument in enumerate(argv[1:], start=1):
        name = argument.lstrip("-").partition("=")[0]
        if not argument.startswith("-"):
            continue
        if name == "config":
            value = argument.partition("=")[2] if "=" in argument else "".join(argv[index + 1 : index + 2])
            path = value.partition(":")[0]
            if not pathlib.Path(path).is_file():
                raise settings.ConfigError(f"There is no config file {path!r}; for example {_EXAMPLE}")
        setting = name.removeprefix("no").removeprefix("config.")
        if name.startswith(("config.", "noconfig.")) and setting not in known and setting not in sections:
            raise settings.ConfigError(settings.unknown_key(setting, known))
        if name in known or name in sections:
            raise settings.ConfigError(f"There is no flag --{name}; the setting is written as --config.{name}=VALUE.")


def _config_error(error: BaseException | None) -> settings.ConfigError | None:
    """The ConfigError that a config file raised, which the flags library has wrapped in its own."""
    found = None
    while error is not None:
        found = error if isinstance(error, settings.ConfigError) else found
        error = error.__context__
    return found


def _impossible_value(message: str) -> str | None:
    """The sentence for `--config.train.steps=many`, in the words of the settings."""
    match = re.match(r"flag --config\.([\w.]+)=(.*?): ", message, re.DOTALL)
    return settings.impossible_value(match[1], match[2]) if match else None


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
