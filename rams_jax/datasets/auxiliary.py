"""The auxiliary tasks, as a table: what each learns, from which sparse strokes, and what its answer is used for.

Most tasks find a kind of pixel that lies deep inside no object. A person says YES with a few strokes; that the marks
of objects are NO is known anyway; the rest is unknown. Where the full mask of an image is known it answers all pixels.
`interior` needs no strokes: it learns where people put their marks, and so keeps one peak an object when the masks of
the approximation task have grown until they touch. A new task is a new row of `TASKS`, and its name in
`rams_jax.config.AUXILIARY`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from rams_jax.types import NO, UNKNOWN, YES

_EIGHT = np.ones((3, 3), bool)


@dataclasses.dataclass(frozen=True)
class AuxiliaryTask:
    """One row of the table; H x W pixels, C channels."""

    folder: str  # of an annotated folder, that holds the strokes, see `read_strokes`
    answers: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]  # (full map, marks, valid mask): int8[H, W, C]
    strokes: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # (answers, marks, rng): bool[H, W, C]
    channels: int  # C, of the network's output and of the strokes
    weight: float  # of its loss, relative to `loss.auxiliary`
    closes: bool  # masks do not grow where it says YES
    shares: bool  # nor do they there, but in the end the pixels are shared out among those that have come so far
    divides: bool  # objects are divided where it says YES
    begins: bool = False  # objects begin where it says YES: markers come from it instead of from the approximation
    marked: int = NO  # what a mark says
    unmarked: int = UNKNOWN  # what a pixel without a mark says, where every object of the image is marked


def interfaces(full: np.ndarray, marks: np.ndarray, valid: np.ndarray, gap: int = 2) -> np.ndarray:
    """Where objects touch: the pixels of the gap and of the contact.

    The gap are pixels outside all objects with two of them at most `gap` pixels away; the contact, those in an object
    that touch another one with one of their eight neighbours. Pixels deeper in an object are none, however near the
    other object is: an interface must not eat into small nuclei.

    Args:
      full: integer[H, W], instance map.
      marks: not used.
      valid: bool[H, W].
      gap: pixels, Euclidean.

    Returns:
      int8[H, W, 1]: YES on interfaces, NO elsewhere, UNKNOWN where not valid.
    """
    steps = np.arange(-gap, gap + 1)
    disc = steps[:, None] ** 2 + steps**2 <= gap**2
    near = np.where(full > 0, _differ(full, _EIGHT), _differ(full, disc))
    return _told(near, valid)


def boundaries(full: np.ndarray, marks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The outermost pixels of objects (4-neighbours) and the pixels that touch them from outside; as `interfaces`."""
    cross = ndimage.generate_binary_structure(2, 1)
    highest = ndimage.maximum_filter(full, footprint=cross, mode="nearest")
    lowest = ndimage.minimum_filter(full, footprint=cross, mode="nearest")
    return _told(highest != lowest, valid)


def outside(full: np.ndarray, marks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Everything in no object; as `interfaces`."""
    return _told(full == 0, valid)


def marked(full: np.ndarray, marks: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The marks: YES on them, NO elsewhere, UNKNOWN in objects without a mark and where not valid: int8[H, W, 1]."""
    return _told(marks > 0, valid & ((full == 0) | np.isin(full, marks[marks > 0])))


def pieces(answers: np.ndarray, marks: np.ndarray, rng: np.random.Generator, share: float = 0.25) -> np.ndarray:
    """A person draws some interfaces, each whole or not at all: bool[H, W, 1]."""
    labels, count = ndimage.label(answers[..., 0] == YES, _EIGHT)
    return np.append(False, rng.random(count) < share)[labels][..., None]


def points(answers: np.ndarray, marks: np.ndarray, rng: np.random.Generator, each: int = 8) -> np.ndarray:
    """A person clicks on the boundary, `each` times an object at random places: bool[H, W, 1], 3 x 3 pixels a click."""
    candidates = np.argwhere(answers[..., 0] == YES)
    count = min(len(candidates), each * len(np.setdiff1d(marks, 0)))
    clicked = np.zeros(marks.shape, bool)
    clicked[tuple(rng.permutation(candidates)[:count].T)] = True
    return ndimage.binary_dilation(clicked, _EIGHT)[..., None] & (answers == YES)


def swipes(answers: np.ndarray, marks: np.ndarray, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    """A person swipes `count` straight strokes over the background, well clear of objects: bool[H, W, 1]."""
    clear = ndimage.distance_transform_cdt(np.pad(answers[..., 0] == YES, 1, mode="edge"), "chessboard")[1:-1, 1:-1]
    clear = (clear < 0) | (clear > 2)  # -1 where there is no object at all
    starts = np.argwhere(clear)
    drawn = np.zeros(marks.shape, bool)
    if len(starts):
        limit = np.subtract(marks.shape, 1)
        length = max(marks.shape) / 6
        for start, angle in zip(rng.choice(starts, count), rng.uniform(0, 2 * np.pi, count), strict=True):
            steps = np.arange(0.0, length, 0.5)[:, None] * (np.sin(angle), np.cos(angle))
            drawn[tuple(np.clip(np.rint(start + steps), 0, limit).astype(int).T)] = True
    return (ndimage.binary_dilation(drawn, _EIGHT) & clear)[..., None]


def nothing(answers: np.ndarray, marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A person draws nothing: bool[H, W, C]."""
    return np.zeros(answers.shape, bool)


TASKS = {
    "separation": AuxiliaryTask("interfaces", interfaces, pieces, 1, 1.0, closes=False, shares=True, divides=True),
    "boundary": AuxiliaryTask("boundaries", boundaries, points, 1, 1.0, closes=False, shares=False, divides=True),
    "background": AuxiliaryTask("background", outside, swipes, 1, 1.0, closes=True, shares=False, divides=False),
    "interior": AuxiliaryTask(
        folder="interiors",
        answers=marked,
        strokes=nothing,
        channels=1,
        weight=1.0,
        closes=False,
        shares=False,
        divides=False,
        begins=True,
        marked=YES,
        unmarked=NO,
    ),
}


def channels(tasks: Sequence[str], use: str = "") -> tuple[int, ...]:
    """Positions of the channels of `tasks` among all S, or of those only that have a use: `closes`, ..."""
    owners = [name for name in tasks for _ in range(TASKS[name].channels)]
    return tuple(i for i, name in enumerate(owners) if not use or getattr(TASKS[name], use))


def weights(tasks: Sequence[str]) -> tuple[float, ...]:
    """The weight of each channel's loss."""
    return tuple(TASKS[name].weight for name in tasks for _ in range(TASKS[name].channels))


def answer_all(full: np.ndarray, marks: np.ndarray, valid: np.ndarray, tasks: Sequence[str]) -> np.ndarray:
    """What a full mask and the marks beside it say to all tasks: int8[H, W, S]."""
    none = np.zeros((*full.shape, 0), np.int8)
    return np.concatenate([none, *(TASKS[name].answers(full, marks, valid) for name in tasks)], axis=-1)


def answer_some(
    full: np.ndarray | None,
    partial: np.ndarray,
    valid: np.ndarray,
    tasks: Sequence[str],
    read: Mapping[str, np.ndarray],
    complete: bool,
    seed: int,
) -> np.ndarray:
    """What a person says on an image with rough marks.

    Args:
      full: integer[H, W], to simulate the strokes of tasks that `read` has none of; or None.
      partial: integer[H, W]: the marks. They answer as the task's `marked`, but where `full` says otherwise.
      valid: bool[H, W].
      tasks: names in `TASKS`.
      read: of some tasks, the strokes that were drawn: int8[H, W, C] of `read_strokes`.
      complete: every object is marked, so that the other pixels answer as the task's `unmarked`.
      seed: not negative.

    Returns:
      int8[H, W, S].
    """
    said = [np.zeros((*partial.shape, 0), np.int8)]
    for name in tasks:
        task = TASKS[name]
        on_mark = np.repeat((partial > 0)[..., None], task.channels, axis=-1)
        if name in read:
            strokes = read[name]
        elif full is None:
            strokes = np.full(on_mark.shape, UNKNOWN)
        else:
            answers = task.answers(full, partial, valid)
            on_mark &= answers == task.marked
            strokes = np.where(task.strokes(answers, partial, np.random.default_rng(seed)), YES, UNKNOWN)
        off_mark = (partial == 0) & valid & complete
        known = np.where(on_mark, task.marked, np.where(off_mark[..., None], task.unmarked, UNKNOWN))
        said.append(np.where(strokes != UNKNOWN, strokes, known).astype(np.int8))
    return np.concatenate(said, axis=-1)


def read_strokes(drawn: np.ndarray, task: str) -> np.ndarray:
    """Strokes as they stand in a file: 0 unknown, and of channel c = 0, 1, ... 2 c + 1 for YES and 2 c + 2 for NO.

    Args:
      drawn: integer[H, W].
      task: name in `TASKS`.

    Returns:
      int8[H, W, C]; values that mean nothing raise ValueError.
    """
    count = TASKS[task].channels
    if drawn.max(initial=0) > 2 * count or drawn.min(initial=0) < 0:
        raise ValueError(f"strokes for {task} hold {drawn.max()}, but may hold 0 to {2 * count} only")
    here = np.arange(count)
    yes, no = drawn[..., None] == 2 * here + 1, drawn[..., None] == 2 * here + 2
    return np.where(yes, YES, np.where(no, NO, UNKNOWN)).astype(np.int8)


def _told(yes: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.where(valid, np.where(yes, YES, NO), UNKNOWN).astype(np.int8)[..., None]


def _differ(full: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """bool[H, W]: two different objects lie under the footprint."""
    highest = ndimage.maximum_filter(full, footprint=footprint, mode="constant", cval=0)
    above = np.where(full > 0, full, np.iinfo(full.dtype).max)
    lowest = ndimage.minimum_filter(above, footprint=footprint, mode="constant", cval=np.iinfo(full.dtype).max)
    return (highest > 0) & (lowest < highest)
