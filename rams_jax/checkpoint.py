"""The folder of a run: claimed by one configuration, and everything in it that is needed to go on exactly."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp
from absl import logging

from rams_jax import processes, storage

_CONFIG = "config.json"
_DIGESTS = "digests.json"
_KEPT = 2
_TOLD = 5  # settings that differ


class WorkdirError(RuntimeError):
    """The working directory cannot be used; the message is one sentence that says why and what to do."""


def open_workdir(workdir: str | os.PathLike[str], settings: Mapping[str, Any]) -> pathlib.Path:
    """Makes `workdir` the folder of the run with these settings; nothing that is there is overwritten.

    A new or empty folder receives `config.json`; one whose `config.json` says the same is taken to be gone on with.
    With several processes, all call this and the first one writes.

    Args:
      workdir: the folder; its parents are created too.
      settings: nested, JSON-compatible (tuples count as lists), such as `config.to_dict()`.

    Returns:
      The absolute path of the folder.

    Raises:
      WorkdirError: it holds a run with other settings, or files that no run has written, or cannot be written to.
    """
    path = pathlib.Path(workdir).expanduser().absolute()
    if processes.first():
        try:
            _claim(path, json.loads(json.dumps(settings)))
        except OSError as error:
            raise WorkdirError(f"The workdir {path} cannot be used: {error.strerror or error}.") from error
    processes.meet("open_workdir")
    return path


def open_checkpoints(workdir: str | os.PathLike[str]) -> ocp.CheckpointManager:
    """Opens `workdir/checkpoints`, which keeps the last two; what a killed process left half-written is deleted."""
    logging.set_verbosity(logging.ERROR)  # orbax reports every file it touches
    path = pathlib.Path(workdir).expanduser().absolute() / "checkpoints"
    if processes.first():
        path.mkdir(parents=True, exist_ok=True)
        for folder in path.iterdir():
            if folder.is_dir() and not (folder / _DIGESTS).exists():
                shutil.rmtree(folder)
    processes.meet("open_checkpoints")
    # Not in the background: the next step is given these very buffers to write into.
    options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT, create=True, enable_async_checkpointing=False)
    return ocp.CheckpointManager(path, options=options)


def save(manager: ocp.CheckpointManager, step: int, tree: Any) -> None:
    """Writes a pytree of jax arrays as the checkpoint of `step`, and returns when it is on the disk.

    A step that is already there is left as it is: the same step of the same run holds the same values.

    Raises:
      WorkdirError: it cannot be written; the one before is left.
    """
    if step in manager.all_steps():
        return
    try:
        manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        if processes.first():
            folder = pathlib.Path(manager.directory) / str(step)
            storage.write_json(folder / _DIGESTS, _digests(folder))
    except (OSError, ValueError, RuntimeError) as error:  # tensorstore has its own ways to say that the disk is full
        if processes.is_of_jax(error):
            raise
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WorkdirError(
            f"The checkpoint of step {step} cannot be written to {manager.directory} ({said}); make room there, then "
            "give the same command again: it goes on from the one before."
        ) from error


def restore(manager: ocp.CheckpointManager, abstract_tree: Any) -> Any | None:
    """Reads the newest checkpoint that is whole; newer, damaged ones are deleted with a warning.

    Args:
      manager: from `open_checkpoints`.
      abstract_tree: the pytree with a `jax.ShapeDtypeStruct` for each array; its sharding says where the array goes,
        so a run may go on with another number of devices.

    Returns:
      The pytree, equal to the saved one to the bit; None where nothing has been saved.

    Raises:
      WorkdirError: there are checkpoints, and all of them are damaged. None is deleted then.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    whole = [step for step in steps if _is_whole(pathlib.Path(manager.directory) / str(step))]
    if steps and not whole:
        raise WorkdirError(f"All checkpoints in {manager.directory} are damaged; start again in another --workdir.")
    if not steps:
        return None
    for step in steps[: steps.index(whole[0])]:
        warnings.warn(f"The checkpoint of step {step} is damaged; going on from step {whole[0]}.", stacklevel=2)
        manager.delete(step)
    return manager.restore(whole[0], args=ocp.args.StandardRestore(abstract_tree))


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """A digest of each file, since orbax does not notice a changed bit."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _is_whole(folder: pathlib.Path) -> bool:
    try:
        recorded = json.loads((folder / _DIGESTS).read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(recorded, dict) and recorded.items() <= _digests(folder).items()


def _claim(path: pathlib.Path, settings: dict[str, Any]) -> None:
    if path.exists() and not path.is_dir():
        raise WorkdirError(f"The workdir {path} is a file; give a folder as --workdir.")
    path.mkdir(parents=True, exist_ok=True)
    if (path / _CONFIG).exists():
        difference = _difference(_read_config(path), _flatten(settings))
        if difference:
            more = f"; {len(difference) - _TOLD} more" if len(difference) > _TOLD else ""
            raise WorkdirError(
                f"The workdir {path} holds a run with other settings ({'; '.join(difference[:_TOLD])}{more}); "
                "give another --workdir, or the settings of that run."
            )
        return
    others = sorted(entry.name for entry in path.iterdir() if entry.name != _CONFIG + storage.UNFINISHED)
    if others:
        raise WorkdirError(
            f"The workdir {path} holds {others[0]!r}{' and more' if others[1:] else ''} but no {_CONFIG}, "
            "so it is not the folder of a run; give a new or empty folder as --workdir."
        )
    storage.write_json(path / _CONFIG, settings)


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    """The settings, flat."""
    try:
        settings = json.loads((path / _CONFIG).read_text())
        if isinstance(settings, dict):
            return _flatten(settings)
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path / _CONFIG} is not JSON ({error}); give another --workdir.") from error
    raise WorkdirError(f"{path / _CONFIG} holds no settings; give another --workdir.")


def _difference(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings that differ, as `key: value there, value now`."""

    def said(settings: dict[str, Any], key: str) -> str:
        text = json.dumps(settings[key]) if key in settings else "absent"
        return text if len(text) <= 100 else f"{text[:100]}..."

    return [
        f"{key[:100]}: {said(old, key)} there, {said(new, key)} now"
        for key in [*new, *(key for key in old if key not in new)]
        if key not in old or key not in new or old[key] != new[key]
    ]


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in settings.items():
        values |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values
