"""Images that are decoded one by one, so that each of several processes decodes only what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

from rams_jax import memory, processes
from rams_jax.annotations import AnnotationError
from rams_jax.datasets.partial import objects_shown
from rams_jax.types import Example


class Images(Sequence[Example]):
    """Annotated images; each is decoded when it is first asked for, and kept."""

    def __init__(self, names: Sequence[str], decode: Callable[[int], Example], objects: Callable[[int], int | None]):
        """Decodes nothing yet.

        Args:
          names: of the images.
          decode: from a position to its image; may raise an AnnotationError.
          objects: from a position to `partial.objects_shown`, None without a full mask, without decoding all of the
            image; may raise one too.
        """
        self.names = tuple(names)
        self._decode, self._objects = decode, objects
        self._decoded: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Example, ...]: ...

    def __getitem__(self, index: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        position = range(len(self))[index]
        if position not in self._decoded:
            self._decoded[position] = memory.keep(self._decode(position))
        return self._decoded[position]

    def glance(self, position: int) -> Example:
        """The image at a position, not kept if nobody has asked for it before."""
        return self._decoded[position] if position in self._decoded else self._decode(position)

    @property
    def decoded(self) -> int:
        """How many were decoded up to now."""
        return len(self._decoded)

    def changed(self, change: Callable[[int, Example], Example]) -> Images:
        """The same with `change(position, image)` for each; full masks and marks stay."""
        return Images(self.names, lambda i: change(i, self.glance(i)), self._objects)

    def kept(self, positions: Sequence[int]) -> Images:
        """Some of them."""
        names = [self.names[i] for i in positions]
        return Images(names, lambda i: self[positions[i]], lambda i: self._objects(positions[i]))

    def outlined_objects(self) -> list[int | None]:
        """Of each image `partial.objects_shown`, None where it has no full mask.

        Of several processes, each looks through a part of the masks; all must call this.
        """
        part = processes.part(len(self))
        found = processes.merged(processes.agreed(lambda: {i: self._objects(i) for i in part}, AnnotationError))
        return [found[i] for i in range(len(self))]


def decoded(examples: Iterable[Example]) -> Images:
    """Images that are there already."""
    known = tuple(map(memory.keep, examples))

    def objects(position: int) -> int | None:
        example = known[position]
        return None if example.full is None else objects_shown(example.full, example.partial)

    return Images([example.name for example in known], lambda i: known[i], objects)
