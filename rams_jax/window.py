"""Which training images are on the devices: all, or, where they do not fit, a window that moves over the marked ones.

The outlined images always stay. Of the marked images of a shard the devices hold `width`; every `period` steps, in
which each of them has had a turn, the half that is there for longest goes back to the host with its masks, and the next
ones come. So over the whole training masks take as many turns as if all images were on the devices.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rams_jax import memory, processes, sharding
from rams_jax.config import ConfigError
from rams_jax.train_step import by_shard
from rams_jax.types import DatasetState, MaskState, TrainState

_SHARE = 0.5  # of the free memory of a device, that its images may take


class Window:
    """The images of a run, those on the devices and those on the host."""

    def __init__(self, data: DatasetState, mesh: Mesh, width: int, turns: int, stride: int = 1):
        """Places nothing yet.

        Args:
          data: all images of this process, on the host; if not all fit they stay there, and `turn` changes them.
          mesh: the devices.
          width: marked images of a shard that are on the devices at a time; 0 = as many as fit.
          turns: images of a shard whose masks take their turn in a step.
          stride: steps between which the window may move.

        Raises:
          ConfigError: the outlined images alone do not fit.
        """
        self._mesh, (self._shards, self._strong) = mesh, data.strong_slots.shape
        self._slots = data.strong.shape[0] // self._shards
        # Of all processes, which move their windows as one.
        self._counts = np.concatenate(processes.exchange(data.weak_count))
        fitting = width or min(processes.exchange(processes.agreed(lambda: self._fitting(data), ConfigError)))
        self.width = min(fitting, self._slots - self._strong)
        self.moves = self.width < self._slots - self._strong
        if self.moves:
            self.width = min(self.width, int(self._counts.min()))  # shards differ by one image
        self.period = -(-(self._strong + self.width) // (turns * stride)) * stride
        self._step = max(1, self.width // 2)  # images of a shard that change places at a time
        self._at = 0  # how often the window has moved
        self._host = data

    def _fitting(self, data: DatasetState) -> int:
        """How many marked images of a shard fit."""
        devices = self._mesh.local_devices
        here = self._shards // len(devices)  # shards of a device
        image = sum(x.nbytes for x in jax.tree.leaves(data.of_images())) / data.strong.shape[0]  # bytes
        fitting = int(_SHARE * memory.free(devices[0]) / (image * here)) - self._strong
        if fitting < 1 < self._slots:
            raise ConfigError(
                f"{self._strong * here} outlined images, which always stay on a device, do not fit into its memory; "
                "let more devices share them, or set data.strong to fewer."
            )
        return fitting

    def rows(self) -> np.ndarray:
        """int[slots on the devices]: which slot of all each of them shows; of all processes."""
        return self._rows(self._counts)

    def _own_rows(self) -> np.ndarray:
        """The same of the slots of this process alone."""
        return self._rows(self._host.weak_count)

    def _rows(self, counts: np.ndarray) -> np.ndarray:
        """The slots shown of shards with so many marked images."""
        places = np.tile(np.arange(self._strong + self.width), (len(counts), 1))
        if self.moves:
            counters = self._at * self._step + np.arange(self.width)
            for row, count in zip(places, counts, strict=True):
                row[self._strong + counters % self.width] = self._strong + counters % count
        return (places + self._slots * np.arange(len(counts))[:, None]).reshape(-1)

    def shown(self) -> DatasetState:
        """The images of the window, on the host; those of this process."""
        if not self.moves:
            return self._host
        rows = self._own_rows()
        weak = np.arange(self._strong, self._strong + self.width, dtype=np.int32)
        return dataclasses.replace(
            self._host,
            **jax.tree.map(lambda x: x[rows], self._host.of_images()),
            weak_slots=np.tile(weak, (self._shards, 1)),
            weak_count=np.full(self._shards, self.width, np.int32),
            elsewhere=self._elsewhere(),
        )

    def _elsewhere(self) -> np.ndarray:
        """float32[shards, K, bins + 3]: the tallies of the images that are not on the devices."""
        tally = self._host.masks.tally.copy()
        tally[self._own_rows()] = 0
        return by_shard(tally, self._shards).sum(1)

    def turn(self, state: TrainState, number: int) -> TrainState:
        """Moves the window, when it is time.

        Args:
          state: used up if the window moves.
          number: steps that are done.
        """
        if not self.moves or number < (self._at + 1) * self.period:
            return state
        place = self._strong + (self._at * self._step + np.arange(self._step)) % self.width
        places = (place + (self._strong + self.width) * np.arange(self._shards)[:, None]).reshape(-1)
        split = PartitionSpec(sharding.AXIS)
        shards, where = len(self._counts), NamedSharding(self._mesh, split)
        self._store(places, _take(state.data.masks, place, shards, where))
        self._at += 1
        rows = self._own_rows()[places]
        new = jax.tree.map(lambda x: x[rows], self._host.of_images())
        new, elsewhere = sharding.place((new, self._elsewhere()), split, self._mesh)
        images = _put(state.data.of_images(), new, place, shards, where)
        return dataclasses.replace(state, data=dataclasses.replace(state.data, **images, elsewhere=elsewhere))

    def masks(self, state: TrainState) -> MaskState:
        """The masks of all images: of jax, or of NumPy, and then those of this process, where the window moves."""
        if not self.moves:
            return state.data.masks
        self._store(np.arange(len(self._own_rows())), state.data.masks)
        return self._host.masks

    def saved(self, state: TrainState) -> MaskState:
        """The masks of all images in the form of a checkpoint."""
        masks = self.masks(state)
        if not (self.moves and processes.several()):
            return masks
        # Split over the processes, but in the memory of their hosts.
        hosts = {device.process_index: device for device in reversed(jax.devices("cpu"))}
        mesh = Mesh([hosts[i] for i in sorted(hosts)], (sharding.AXIS,))
        return sharding.place(masks, PartitionSpec(sharding.AXIS), mesh)

    def _store(self, places: np.ndarray, masks: MaskState) -> None:
        """Puts the masks of these slots of the devices where they belong on the host."""
        rows = self._own_rows()[places]
        for kept, new in zip(jax.tree.leaves(self._host.masks), jax.tree.leaves(masks), strict=True):
            kept[rows] = processes.local(new)

    def put(self, state: TrainState, masks: MaskState) -> TrainState:
        """The state with these masks of all images, of the kind that `saved` returns."""
        if not self.moves:
            return dataclasses.replace(state, data=dataclasses.replace(state.data, masks=masks))
        self._at = int(state.step) // self.period
        for kept, new in zip(jax.tree.leaves(self._host.masks), jax.tree.leaves(masks), strict=True):
            kept[...] = processes.local(new)
        data = self.shown()
        return dataclasses.replace(state, data=sharding.place(data, sharding.specs(data), self._mesh))


@functools.partial(jax.jit, static_argnames=("shards", "where"))
def _take(masks: MaskState, place: np.ndarray, shards: int, where: NamedSharding) -> MaskState:
    """The masks in these places of every shard."""

    def take(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(by_shard(x, shards)[:, place].reshape(-1, *x.shape[1:]), where)

    return jax.tree.map(take, masks)


@functools.partial(jax.jit, static_argnames=("shards", "where"), donate_argnums=0)
def _put(images: Any, new: Any, place: np.ndarray, shards: int, where: NamedSharding) -> Any:
    """The images with these places of every shard filled anew."""

    def put(x: jax.Array, y: jax.Array) -> jax.Array:
        filled = by_shard(x, shards).at[:, place].set(by_shard(y, shards))
        return jax.lax.with_sharding_constraint(filled.reshape(x.shape), where)

    return jax.tree.map(put, images, new)
