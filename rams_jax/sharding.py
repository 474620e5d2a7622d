"""Where arrays live: the images split over the devices, everything else on all of them; and the compiled step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rams_jax.train_step import Metrics, Program, evolution_turn, train_step
from rams_jax.types import DatasetState, TrainState

AXIS = "data"


def make_mesh(devices: int) -> Mesh:
    """A mesh of the first `devices` devices along the axis `data`."""
    return jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def own_blocks(mesh: Mesh, count: int) -> np.ndarray:
    """int[blocks]: which of `count` blocks along the axis lie on the devices of this process, rising."""
    where = NamedSharding(mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((count,))
    return np.unique(np.concatenate([np.arange(count)[index] for index in where.values()]))


def specs(data: DatasetState) -> DatasetState:
    """The partition of each array of a dataset: by images, but for the statistics of the strong ones."""
    split = jax.tree.map(lambda _: PartitionSpec(AXIS), data)
    return dataclasses.replace(split, rho=PartitionSpec(), outlined=PartitionSpec(), largest=PartitionSpec())


def place(tree: Any, partition: Any, mesh: Mesh) -> Any:
    """Puts host arrays on the devices of the mesh.

    Args:
      tree: pytree of arrays; of those that are split, the part of this process (`own_blocks`).
      partition: pytree of `PartitionSpec`, or one for all.
      mesh: from `make_mesh`.

    Returns:
      The same pytree of global jax arrays.
    """

    def put(x: Any, spec: PartitionSpec) -> jax.Array:
        return jax.make_array_from_process_local_data(NamedSharding(mesh, spec), np.asarray(x))

    if isinstance(partition, PartitionSpec):
        return jax.tree.map(lambda x: put(x, partition), tree)
    return jax.tree.map(put, tree, partition)


def state_specs(state: TrainState) -> TrainState:
    """The partition of a whole train state."""
    replicated = jax.tree.map(lambda _: PartitionSpec(), state)
    return dataclasses.replace(replicated, data=specs(state.data))


def compile_step(
    program: Program, state: TrainState, mesh: Mesh, shards: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The training step as one compiled function; the state passed in is used up (donated).

    Args:
      program: what to do.
      state: a state, for its structure.
      mesh: from `make_mesh`.
      shards: number of logical shards, a multiple of the mesh's devices.

    Returns:
      `step(state, key, count=1) -> (state, metrics)`; of more steps than one, which are one program then, the metrics
      are float32[count].
    """
    partition = state_specs(state)
    local = jax.shard_map(
        functools.partial(train_step, program=program, axis=AXIS),
        mesh=mesh,
        in_specs=(partition, PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=(partition, PartitionSpec()),
        check_vma=False,
    )

    # Without it XLA names the output's sharding in its own way, and the second step is prepared anew.
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), (partition, PartitionSpec()))

    @functools.partial(jax.jit, donate_argnums=0, static_argnums=2, out_shardings=shardings)
    def step(state: TrainState, key: jax.Array, count: int = 1) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, _: Any = None) -> tuple[TrainState, Metrics]:
            return local(state, key, jnp.arange(shards))

        return one(state) if count == 1 else jax.lax.scan(one, state, length=count)

    return step


def compile_turn(program: Program, state: TrainState) -> Callable[[TrainState], TrainState]:
    """What a step does to the masks as a function by itself, to time it; each device has its own threshold here."""
    partition = state_specs(state)

    def turn(state: TrainState) -> TrainState:
        return evolution_turn(state, program=program)[0]

    mesh = state.step.sharding.mesh
    return jax.jit(jax.shard_map(turn, mesh=mesh, in_specs=(partition,), out_specs=partition, check_vma=False))
