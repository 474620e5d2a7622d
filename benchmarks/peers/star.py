"""StarDist 2D (StarDist 0.9.2 with TensorFlow 2.21.0 for CPUs when written).

Followed: the notebooks examples/2D/2_training and, for classes, multi-class training, of the StarDist repository: their
augmentation, configuration, and thresholds optimised on the validation images.
Receives: the outlined images only. A negative label turns the loss of a pixel off (documentation of `train`, example
4_sparse_training), but that is for images in which some objects are outlined and others not: an object that is labelled
must be labelled up to its boundary, because distances to it are what is learnt. So marks cannot be given; what lies
around an outlined square, and objects that its edge cuts, are negative. No weights from elsewhere: random
initialisation.
Changed: patches of 128 pixels and grid 2, or of 160 and grid 4 where objects are wider than 60 pixels, where the
notebook has 256; fewer steps.
Its own score: `stardist.matching.matching_dataset` at an IoU of 0.5, whatever the class.
"""

from collections.abc import Callable, Sequence

import numpy as np
from csbdeep.utils import normalize
from shared import Found, Task, extent
from stardist.matching import matching_dataset
from stardist.models import Config2D, StarDist2D

from rams_jax.types import Example

PACKAGES = ("stardist", "tensorflow-cpu", "csbdeep")
STEPS = 1000  # of 4 patches
SEMANTIC = False
WIDE = 60  # pixels


def train(task: Task, folder: str) -> Callable[[Sequence[np.ndarray]], list[Found]]:
    wide = extent(task) > WIDE
    grid, side = (4, 160) if wide else (2, 128)
    multiple = 8 * grid  # of the grid and three poolings
    smallest = np.min([s.image.shape[:2] for s in (*task.outlined, *task.validation)], axis=0)
    classes = task.number_of_classes if task.number_of_classes > 1 else None
    config = Config2D(
        n_rays=32,
        grid=(grid, grid),
        n_channel_in=task.outlined[0].image.shape[2],
        n_classes=classes,
        train_patch_size=tuple(int(min(side, s) // multiple * multiple) for s in smallest),
        train_batch_size=4,
        train_tensorboard=False,
    )
    model = StarDist2D(config, name="stardist", basedir=folder)
    images, labels, ids = _pairs(task.outlined, classes)
    seen, truth, known = _pairs(task.validation, classes)
    rng = np.random.default_rng(task.seed)
    model.train(
        images,
        labels,
        validation_data=(seen, truth, known) if classes else (seen, truth),
        classes=ids if classes else "auto",
        augmenter=lambda x, y: _augment(rng, x, y),
        seed=task.seed,
        epochs=STEPS // 100,
        steps_per_epoch=100,
    )
    model.optimize_thresholds(seen, truth)

    def predict(images: Sequence[np.ndarray]) -> list[Found]:
        found = []
        for image in images:
            instances, details = model.predict_instances(_scaled(image))
            of_each = np.asarray(details["class_id"]) if classes else np.ones(instances.max(), int)
            found.append((instances.astype(np.int32), np.append(0, of_each).astype(np.int32)))
        return found

    return predict


def _pairs(shown: Sequence, classes: int | None) -> tuple[list[np.ndarray], list[np.ndarray], list[dict[int, int]]]:
    ids = [{j: int(s.classes[j]) for j in np.unique(s.instances[s.instances > 0]).tolist()} for s in shown]
    return [_scaled(s.image) for s in shown], [s.instances for s in shown], ids


def _scaled(image: np.ndarray) -> np.ndarray:
    scaled = normalize(image, 1, 99.8, axis=(0, 1))
    return scaled[..., 0] if image.shape[2] == 1 else scaled


def _augment(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The notebook's: flips, quarter turns (of square patches), brightness and noise."""
    for axis in (0, 1):
        if rng.random() < 0.5:
            x, y = np.flip(x, axis), np.flip(y, axis)
    if y.shape[0] == y.shape[1]:
        turns = rng.integers(4)
        x, y = np.rot90(x, turns), np.rot90(y, turns)
    x = x * rng.uniform(0.6, 2) + rng.uniform(-0.2, 0.2)
    return x + 0.02 * rng.uniform() * rng.standard_normal(x.shape), y


def own_scores(examples: Sequence[Example], found: Sequence[Found]) -> dict[str, float]:
    truth = [np.where(e.valid, e.full, 0) for e in examples]
    guess = [np.where(e.valid, f[0], 0) for e, f in zip(examples, found, strict=True)]
    scores = matching_dataset(truth, guess, thresh=0.5, show_progress=False)
    return {name: float(getattr(scores, name)) for name in ("accuracy", "f1", "panoptic_quality")}
