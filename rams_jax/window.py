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
          ConfigError: the outlined images alone do not fit, or there are several processes, which have no window.
        """
        self._mesh, (self._shards, self._strong) = mesh, data.strong_slots.shape
        self._slots = data.strong.shape[0] // self._shards
        self.width = min(width or self._fitting(data), self._slots - self._strong)
        self.moves = self.width < self._slots - self._strong
        if self.moves:
            if processes.several():
                raise ConfigError(
                    "train.window is for one process; start more of several, so that their devices hold all images."
                )
            self.width = min(self.width, int(data.weak_count.min()))  # shards differ by one image
        self.period = -(-(self._strong + self.width) // (turns * stride)) * stride
        self._step = max(1, self.width // 2)  # images of a shard that change places at a time
        self._at = 0  # how often the window has moved
        self._host = data

    def _fitting(self, data: DatasetState) -> int:
        """How many marked images of a shard fit."""
        if processes.several():
            return self._slots
        here = self._shards // self._mesh.devices.size  # shards of a device
        image = sum(x.nbytes for x in jax.tree.leaves(data.of_images())) / data.strong.shape[0]  # bytes
        fitting = int(_SHARE * memory.free(self._mesh.devices.flat[0]) / (image * here)) - self._strong
        if fitting < 1 < self._slots:
            raise ConfigError(
                f"{self._strong * here} outlined images, which always stay on a device, do not fit into its memory; "
                "let more devices share them, or set data.strong to fewer."
            )
        return fitting

    def rows(self) -> np.ndarray:
        """int[slots on the devices]: which slot of all each of them shows."""
        places = np.tile(np.arange(self._strong + self.width), (self._shards, 1))
        if self.moves:
            counters = self._at * self._step + np.arange(self.width)
            for row, count in zip(places, self._host.weak_count, strict=True):
                row[self._strong + counters % self.width] = self._strong + counters % count
        return (places + self._slots * np.arange(self._shards)[:, None]).reshape(-1)

    def shown(self) -> DatasetState:
        """The images of the window, on the host."""
        if not self.moves:
            return self._host
        rows = self.rows()
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
        tally[self.rows()] = 0
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
        self._store(places, jax.device_get(_take(state.data.masks, place, self._shards)))
        self._at += 1
        rows, split = self.rows()[places], PartitionSpec(sharding.AXIS)
        new = jax.tree.map(lambda x: x[rows], self._host.of_images())
        new, elsewhere = sharding.place((new, self._elsewhere()), split, self._mesh)
        images = _put(state.data.of_images(), new, place, self._shards, NamedSharding(self._mesh, split))
        return dataclasses.replace(state, data=dataclasses.replace(state.data, **images, elsewhere=elsewhere))

    def masks(self, state: TrainState) -> MaskState:
        """The masks of all images of all slots: of jax, or of NumPy where the window moves."""
        if not self.moves:
            return state.data.masks
        self._store(np.arange(len(self.rows())), processes.whole(state.data.masks))
        return self._host.masks

    def _store(self, places: np.ndarray, masks: MaskState) -> None:
        """Puts the masks of these slots of the devices where they belong on the host."""
        rows = self.rows()[places]
        for kept, new in zip(jax.tree.leaves(self._host.masks), jax.tree.leaves(masks), strict=True):
            kept[rows] = new

    def put(self, state: TrainState, masks: MaskState) -> TrainState:
        """The state with these masks of all images, of the kind that `masks` returns."""
        if not self.moves:
            return dataclasses.replace(state, data=dataclasses.replace(state.data, masks=masks))
        self._at = int(state.step) // self.period
        for kept, new in zip(jax.tree.leaves(self._host.masks), jax.tree.leaves(masks), strict=True):
            kept[...] = new
        data = self.shown()
        return dataclasses.replace(state, data=sharding.place(data, sharding.specs(data), self._mesh))


@functools.partial(jax.jit, static_argnames="shards")
def _take(masks: MaskState, place: np.ndarray, shards: int) -> MaskState:
    """The masks in these places of every shard."""
    return jax.tree.map(lambda x: by_shard(x, shards)[:, place].reshape(-1, *x.shape[1:]), masks)


@functools.partial(jax.jit, static_argnames=("shards", "where"), donate_argnums=0)
def _put(images: Any, new: Any, place: np.ndarray, shards: int, where: NamedSharding) -> Any:
    """The images with these places of every shard filled anew."""

    def put(x: jax.Array, y: jax.Array) -> jax.Array:
        filled = by_shard(x, shards).at[:, place].set(by_shard(y, shards))
        return jax.lax.with_sharding_constraint(filled.reshape(x.shape), where)

    return jax.tree.map(put, images, new)
