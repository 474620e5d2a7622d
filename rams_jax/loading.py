"""From annotated examples on the host to one `DatasetState`: padded, dealt to logical shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

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


def load(
    examples: Sequence[Example],
    strong: Sequence[int],
    number_of_classes: int,
    shards: int,
    multiple: int,
    unmarked: int = 0,
    memory: bool = False,
) -> tuple[DatasetState, np.ndarray]:
    """Checks a dataset and lays it out for training.

    Args:
      examples: the training images; sizes may differ, channels and auxiliary tasks may not.
      strong: positions of the images whose full masks the network may see.
      number_of_classes: K.
      shards: R, the number of blocks that the images are dealt to.
      multiple: height and width are padded to a multiple of it.
      unmarked: what the masks of weak images say of unmarked pixels at first: 0 = outside, -1 = nothing.
      memory: the state has room for a running mean of predictions.

    Returns:
      The state with NumPy arrays, and int[slots]: the position in `examples` of the image in each slot, -1 if empty.

    Raises:
      AnnotationError: an image, a map or the set as a whole cannot be used.
    """
    chosen = set(strong)
    for example in examples:
        check_example(example, number_of_classes, careful=False)  # who reads marks that people drew has looked
    check_dataset(examples, strong)
    first = examples[0]
    strong_images, weak_images = deal(sorted(chosen), [i for i in range(len(examples)) if i not in chosen], shards)
    slots = np.concatenate([strong_images, weak_images], axis=1)
    images, strong_count = slots.size, strong_images.shape[1]

    height, width = (-(-max(e.image.shape[axis] for e in examples) // multiple) * multiple for axis in (0, 1))
    ids = max(len(e.classes) for e in examples)
    if ids - 1 + number_of_classes > np.iinfo(np.int16).max:
        crowded = max(examples, key=lambda e: len(e.classes)).name
        most = np.iinfo(np.int16).max - number_of_classes
        raise AnnotationError(f"{crowded} has {ids - 1} objects, but at most {most} fit in a map; cut it into tiles.")
    arrays: dict[str, Any] = {
        "image": np.zeros((images, height, width, first.image.shape[2]), np.float32),
        "inside": np.zeros((images, height, width), bool),
        "valid": np.zeros((images, height, width), bool),
        "full": np.zeros((images, height, width), np.int16),
        "partial": np.zeros((images, height, width), np.int16),
        "auxiliary": np.zeros((images, height, width, first.auxiliary.shape[2]), np.int8),
        "classes": np.zeros((images, ids + number_of_classes), np.int32),
        "strong": np.zeros(images, bool),
        "complete": np.zeros(images, bool),
    }
    current = np.zeros((images, height, width), np.int16)
    for slot, position in enumerate(slots.reshape(-1)):
        if position < 0:
            continue
        example, is_strong = examples[position], position in chosen
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
    rho, outlined, largest = mark_statistics([examples[i] for i in sorted(chosen)], number_of_classes)
    per_shard = slots.shape[1]
    state = DatasetState(
        **arrays,
        rho=rho,
        outlined=outlined,
        largest=largest,
        strong_slots=np.tile(np.arange(strong_count, dtype=np.int32), (shards, 1)),
        weak_slots=np.tile(np.arange(strong_count, per_shard, dtype=np.int32), (shards, 1)),
        weak_count=(weak_images >= 0).sum(1).astype(np.int32),
        masks=MaskState(
            current=current,
            age=np.zeros_like(current),
            held=np.zeros(arrays["classes"].shape, bool),
            tally=np.zeros((images, number_of_classes, BINS + 3), np.float32),
            updates=np.zeros(images, np.int32),
            average=np.zeros((*current.shape, number_of_classes), np.uint8) if memory else None,
        ),
    )
    return state, slots.reshape(-1)


def statistics(examples: Sequence[Example]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels of the images; 1 for one that never changes."""
    pixels = [example.image.reshape(-1, example.image.shape[2]).astype(np.float64) for example in examples]
    count = sum(len(x) for x in pixels)
    mean = np.sum([x.sum(0) for x in pixels], axis=0) / count
    std = np.sqrt(np.sum([((x - mean) ** 2).sum(0) for x in pixels], axis=0) / count)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())


def mark_statistics(strong: Sequence[Example], number_of_classes: int) -> tuple[np.ndarray, ...]:
    """What the strong images tell of marks and objects.

    Args:
      strong: examples with full masks and marks.
      number_of_classes: K.

    Returns:
      `rho` float32[K]: area of the marks as drawn / area of the objects that carry one, on valid pixels; `outlined`
      float32[K]: number of objects; `largest` float32[K]: area of the largest object, pixels.

    Raises:
      AnnotationError: no strong image shows a marked object of one of the classes.
    """
    marks, objects, outlined, largest = (np.zeros(number_of_classes, np.float32) for _ in range(4))
    for example in strong:
        assert example.full is not None
        areas = np.bincount(example.full[example.valid], minlength=len(example.classes))
        marked = np.bincount(example.partial[example.valid], minlength=len(example.classes))
        for k in range(number_of_classes):
            of_class = np.flatnonzero(example.classes == k + 1)
            objects[k] += areas[of_class[np.isin(of_class, example.partial)]].sum()
            marks[k] += marked[of_class].sum()
            outlined[k] += len(of_class)
            largest[k] = max(float(largest[k]), float(areas[of_class].max(initial=0)))
    for missing in np.flatnonzero((marks == 0) | (objects == 0)):
        names = ", ".join(e.name for e in strong)
        raise AnnotationError(
            f"No strong image ({names}) shows a marked object of class {missing + 1}; outline an image that has one."
        )
    return marks / objects, outlined, largest
