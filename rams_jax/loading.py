"""From annotated examples on the host to one `DatasetState`: padded, dealt to logical shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rams_jax import memory, processes
from rams_jax.annotations import AnnotationError, check_dataset, check_example
from rams_jax.types import BINS, DatasetState, Example, MaskState


def deal(strong: Sequence[int], weak: Sequence[int], shards: int) -> tuple[np.ndarray, np.ndarray]:
    """Which image each slot of each shard holds.

    Every shard must see full masks, so few strong images are repeated until every shard has as many as the others;
    weak images are dealt once, and the slots that are left stay empty.

    Args:
      strong: positions of the strong images in the dataset.
      weak: positions of the others.
      shards: number of logical shards, R.

    Returns:
      `(int[R, strong slots], int[R, weak slots])`: positions in the dataset, -1 for an empty slot.
    """
    strong_slots, weak_slots = -(-len(strong) // shards), -(-len(weak) // shards)
    dealt = np.array([strong[i % len(strong)] for i in range(shards * strong_slots)])
    padded = np.array([*weak, *[-1] * (shards * weak_slots - len(weak))], int)
    return dealt.reshape(strong_slots, shards).T, padded.reshape(weak_slots, shards).T


def slots_of(strong: Sequence[int], count: int, shards: int) -> tuple[np.ndarray, int]:
    """Where the images of a dataset of `count` go (`deal`).

    Returns:
      int[R, slots of a shard]: positions in the dataset, -1 for an empty slot; and how many of a shard's are strong.
    """
    chosen = set(strong)
    dealt = deal(sorted(chosen), [i for i in range(count) if i not in chosen], shards)
    return np.concatenate(dealt, axis=1), dealt[0].shape[1]


def images_in(slots: np.ndarray) -> list[int]:
    """Positions in the dataset of the images that some slots hold, each once, rising."""
    return np.unique(slots[slots >= 0]).tolist()


def load(
    examples: Sequence[Example],
    strong: Sequence[int],
    number_of_classes: int,
    shards: int,
    multiple: int,
    unmarked: int = 0,
    remembers: bool = False,
    own: np.ndarray | None = None,
) -> tuple[DatasetState, np.ndarray]:
    """Checks a dataset and lays it out for training.

    Args:
      examples: the training images, of which those of `own` are looked at; sizes may differ, channels and auxiliary
        tasks may not.
      strong: positions of the images whose full masks the network may see.
      number_of_classes: K.
      shards: R, the number of blocks that the images are dealt to.
      multiple: height and width are padded to a multiple of it.
      unmarked: what the masks of weak images say of unmarked pixels at first: 0 = outside, -1 = nothing.
      remembers: the state has room for a running mean of predictions.
      own: int[], the shards of this process; of several, all must call this. None: all shards.

    Returns:
      The state with NumPy arrays, of the own shards only, and int[all slots]: the position in `examples` of the image
      in each slot, -1 if empty.

    Raises:
      AnnotationError: an image, a map or the set as a whole cannot be used.
    """
    chosen = set(strong)
    slots, strong_count = slots_of(strong, len(examples), shards)
    here = slots if own is None else slots[own]
    positions = list(range(len(examples))) if own is None else images_in(here)

    def check() -> dict[int, Example]:
        known = {i: examples[i] for i in positions}
        for example in known.values():
            check_example(example, number_of_classes, careful=False)  # who reads marks that people drew has looked
        places = strong if own is None else [place for place, i in enumerate(positions) if i in chosen]
        check_dataset(list(known.values()), places)
        return known

    known = processes.agreed(check, AnnotationError)
    sizes = processes.merged({i: list(e.image.shape[:2]) for i, e in known.items()})
    height, width = (-(-max(size[axis] for size in sizes.values()) // multiple) * multiple for axis in (0, 1))
    listed = processes.merged({i: len(e.classes) for i, e in known.items()})
    ids = max(listed.values())
    if ids - 1 + number_of_classes > np.iinfo(np.int16).max:
        crowded = processes.merged({i: e.name for i, e in known.items()})[max(listed, key=lambda i: listed[i])]
        most = np.iinfo(np.int16).max - number_of_classes
        raise AnnotationError(f"{crowded} has {ids - 1} objects, but at most {most} fit in a map; cut it into tiles.")
    images, channels, tasks = here.size, known[positions[0]].image.shape[2], known[positions[0]].auxiliary.shape[2]
    arrays: dict[str, Any] = {
        "image": memory.zeros((images, height, width, channels), np.float32),
        "inside": memory.zeros((images, height, width), bool),
        "valid": memory.zeros((images, height, width), bool),
        "full": memory.zeros((images, height, width), np.int16),
        "partial": memory.zeros((images, height, width), np.int16),
        "auxiliary": memory.zeros((images, height, width, tasks), np.int8),
        "classes": memory.zeros((images, ids + number_of_classes), np.int32),
        "strong": memory.zeros((images,), bool),
        "complete": memory.zeros((images,), bool),
    }
    current = memory.zeros((images, height, width), np.int16)
    for slot, position in enumerate(here.reshape(-1).tolist()):
        if position < 0:
            continue
        example, is_strong = known[position], position in chosen
        h, w = example.partial.shape
        # Where an outline is known the mark ends at it.
        marks = np.where(example.partial == example.full, example.partial, 0) if is_strong else example.partial
        # The edge repeated: a crop that reads between the last pixel and the padding shall not see a dark rim.
        arrays["image"][slot] = np.pad(example.image, ((0, height - h), (0, width - w), (0, 0)), mode="edge")
        arrays["inside"][slot, :h, :w] = True
        arrays["valid"][slot, :h, :w] = example.valid
        arrays["partial"][slot, :h, :w] = marks
        arrays["auxiliary"][slot, :h, :w] = example.auxiliary
        arrays["classes"][slot, : len(example.classes)] = example.classes
        arrays["classes"][slot, ids:] = np.arange(1, number_of_classes + 1)
        arrays["strong"][slot] = is_strong
        arrays["complete"][slot] = example.complete or is_strong
        if is_strong:
            arrays["full"][slot, :h, :w] = example.full
        current[slot, :h, :w] = np.where(marks > 0, marks, 0 if is_strong else unmarked)
    rho, outlined, largest = mark_statistics({i: e for i, e in known.items() if i in chosen}, number_of_classes)
    rows, per_shard = here.shape
    state = DatasetState(
        **arrays,
        rho=rho,
        outlined=outlined,
        largest=largest,
        strong_slots=np.tile(np.arange(strong_count, dtype=np.int32), (rows, 1)),
        weak_slots=np.tile(np.arange(strong_count, per_shard, dtype=np.int32), (rows, 1)),
        weak_count=(here[:, strong_count:] >= 0).sum(1).astype(np.int32),
        elsewhere=np.zeros((rows, number_of_classes, BINS + 3), np.float32),
        masks=MaskState(
            current=current,
            age=memory.zeros(current.shape, current.dtype),
            held=np.zeros(arrays["classes"].shape, bool),
            tally=np.zeros((images, number_of_classes, BINS + 3), np.float32),
            updates=np.zeros(images, np.int32),
            average=memory.zeros((*current.shape, number_of_classes), np.uint8) if remembers else None,
        ),
    )
    return state, slots.reshape(-1)


def statistics(examples: Mapping[int, Example]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of the images; 1 for one that never changes.

    Args:
      examples: by position in the dataset; of several processes, all must call this, with all images between them.

    Raises:
      AnnotationError: images with different numbers of channels.
    """

    def pixels(example: Example) -> np.ndarray:
        return example.image.reshape(-1, example.image.shape[2]).astype(np.float64)

    # Sums of each image are added up in the order of the images, so that the last bit is the same for any processes.
    sums = processes.merged({i: pixels(e).sum(0) for i, e in examples.items()})
    for i, name in processes.merged({i: e.name for i, e in examples.items()}).items():
        if len(sums[i]) != len(sums[0]):
            raise AnnotationError(
                f"{name}: the image has {len(sums[i])} channels, the first one {len(sums[0])}; all need the same."
            )
    count = sum(processes.merged({i: e.image.shape[0] * e.image.shape[1] for i, e in examples.items()}).values())
    mean = np.sum(list(sums.values()), axis=0) / count
    squares = processes.merged({i: ((pixels(e) - mean) ** 2).sum(0) for i, e in examples.items()})
    std = np.sqrt(np.sum(list(squares.values()), axis=0) / count)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def mark_statistics(strong: Mapping[int, Example], number_of_classes: int) -> tuple[np.ndarray, ...]:
    """What the strong images tell of marks and objects.

    Args:
      strong: examples with full masks and marks, as in `statistics`.
      number_of_classes: K.

    Returns:
      `rho` float32[K]: area of the marks as drawn / area of the objects that carry one, on valid pixels; `outlined`
      float32[K]: number of objects; `largest` float32[K]: area of the largest object, pixels.

    Raises:
      AnnotationError: no strong image shows a marked object of one of the classes.
    """

    def counts(example: Example) -> np.ndarray:
        """int64[4, K]."""
        assert example.full is not None
        areas = np.bincount(example.full[example.valid], minlength=len(example.classes))
        marked = np.bincount(example.partial[example.valid], minlength=len(example.classes))
        ids = [np.flatnonzero(example.classes == k + 1) for k in range(number_of_classes)]
        of_marked = [areas[i[np.isin(i, example.partial)]].sum() for i in ids]
        return np.array(
            [[marked[i].sum(), a, len(i), areas[i].max(initial=0)] for i, a in zip(ids, of_marked, strict=True)]
        ).T

    found = processes.merged({i: counts(e) for i, e in strong.items()})
    *sums, largest = np.stack(list(found.values()), axis=1)
    marks, objects, outlined = (x.sum(0).astype(np.float32) for x in sums)
    for missing in np.flatnonzero((marks == 0) | (objects == 0)):
        names = ", ".join(processes.merged({i: e.name for i, e in strong.items()}).values())
        raise AnnotationError(
            f"No strong image ({names}) shows a marked object of class {missing + 1}; outline an image that has one."
        )
    return marks / objects, outlined, largest.max(0).astype(np.float32)
