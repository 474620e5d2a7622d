"""One run as several processes, each with devices of its own: joining them, and what lies on all of their devices."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

T = TypeVar("T")
LOST = 3  # exit status
_EXCHANGES = ("Gloo", "NCCL", "coordination service")  # as they are called in the messages
_LOST_AFTER = 40  # seconds without a sign of life after which a process counts as lost


class ProcessError(RuntimeError):
    """The processes do not find each other; the message is one sentence that says what to do."""


def join(coordinator: str, processes: int, process: int) -> None:
    """Makes this process one of several; before anything else of jax.

    Args:
      coordinator: HOST:PORT of process 0; "" where Slurm, Open MPI, Kubernetes or a TPU pod say all three.
      processes: how many there are.
      process: which one this is, from 0.

    Raises:
      ProcessError: nothing says so, or one part only, what is said is impossible, or the others did not come.
    """
    if not coordinator and processes > 1:
        raise ProcessError("--processes says that there are several, but not --coordinator=HOST:PORT where they meet.")
    try:
        if coordinator:  # a cluster's own variables have no say then
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=_LOST_AFTER,
            )
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=_LOST_AFTER)
    except (ValueError, RuntimeError, KeyError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProcessError(
            f"The processes of this run did not find each other ({said}); give each --coordinator=HOST:PORT, "
            "--processes=N and --process=I, or --cluster where Slurm, Open MPI, Kubernetes or a TPU pod start them."
        ) from error
    _connect()


def _connect() -> None:
    """Lets all devices, and all processes, exchange something.

    Now, while all processes are here: gloo gives up after 30 seconds where one makes its first connection much later
    than another, as when the first one prepares a data set, but then waits for as long as it takes.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    ones = jax.make_array_from_callback(
        (jax.device_count(),), NamedSharding(mesh, PartitionSpec("all")), lambda index: np.ones(1, np.float32)
    )
    jax.block_until_ready(jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))(ones))
    meet("joined")


def is_of_jax(error: Exception) -> bool:
    """Whether jax failed, or an exchange, which orbax meets as a ValueError when another process is lost in a save."""
    return isinstance(error, JaxRuntimeError) or (several() and any(word in str(error) for word in _EXCHANGES))


def explain(error: Exception) -> str:
    """The sentence for an error amid several processes, most likely the loss of one; any other error is raised."""
    if not several() or not is_of_jax(error):
        raise error
    said = str(error).splitlines()[0]
    return f"Another process was lost, or this one failed ({said}); start all again, to go on from the last checkpoint."


def end_at_once(code: Any) -> None:
    """Ends one of several processes, whose orderly end would wait for the others; returns if there is no other."""
    if several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def several() -> bool:
    """There is more than this process."""
    return jax.process_count() > 1


def first() -> bool:
    """This is the process that writes files and speaks."""
    return jax.process_index() == 0


def meet(place: str) -> None:
    """Returns when all processes have come to this place."""
    if several():
        multihost_utils.sync_global_devices(place)


def first_alone(function: Callable[[], T]) -> T:
    """What the function returns, on every process; the others run it when the first one has, or has failed."""
    if not first():
        meet("first_alone")
    try:
        return function()
    finally:
        if first():
            meet("first_alone")


def part(count: int) -> range:
    """Which of `count` things this process does, when the processes share them out."""
    return range(jax.process_index(), count, jax.process_count())


def exchange(value: Any) -> list[Any]:
    """What each process has to say, in the order of the processes; all must call this.

    Args:
      value: nested dicts with keys of text, and lists, of text, numbers, None and NumPy arrays.
    """
    if not several():
        return [value]
    said = np.frombuffer(serialization.msgpack_serialize(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(said.size))
    heard = multihost_utils.process_allgather(np.pad(said, (0, int(sizes.max()) - said.size)))
    return [serialization.msgpack_restore(row[:size].tobytes()) for row, size in zip(heard, sizes, strict=True)]


def merged(found: Mapping[int, T]) -> dict[int, T]:
    """What the processes found for numbered things, such as images, in the order of the numbers; all must call this.

    Two processes that found something for the same thing found the same.
    """
    together = {
        int(number): x for said in exchange({str(n): x for n, x in found.items()}) for number, x in said.items()
    }
    return dict(sorted(together.items()))


def agreed(function: Callable[[], T], error: type[Exception]) -> T:
    """What the function returns on this process, if it succeeds on every one; all must call this.

    Raises:
      error: it has raised this on some process; the message is that of the first of these.
    """
    said, result = None, None
    try:
        result = function()
    except error as raised:
        if not several():
            raise
        said = str(raised)
    sentences = [sentence for sentence in exchange(said) if sentence is not None]
    if sentences:
        raise error(sentences[0])
    return result  # type: ignore[return-value]


def local(x: jax.Array | np.ndarray) -> np.ndarray:
    """The part of an array, split by its first axis, that lies on the devices of this process, or on its host."""
    if isinstance(x, np.ndarray):
        return x
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


def whole(tree: Any) -> Any:
    """A pytree of jax arrays as NumPy arrays, those that are split over the processes too; all must call this."""

    def gather(x: jax.Array | np.ndarray) -> np.ndarray:
        here = isinstance(x, np.ndarray) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    return jax.tree.map(gather, tree)


def stops(requested: bool, step: int) -> bool:
    """Whether this is the step after which to stop, on all processes the same one; to be asked at every step.

    Args:
      requested: a signal has come to this process; of several, jax itself listens to SIGTERM and tells the others.
      step: its number, or that of a call of several; rising by one.
    """
    return multihost_utils.reached_preemption_sync_point(step) if several() else requested
