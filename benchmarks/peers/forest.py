"""Random-forest pixel classifier: scikit-image's features, scikit-learn's forest (0.26.0 and 1.9.1 when written).

Followed: scikit-image's gallery, "Trainable segmentation using local features and random forests".
Receives: the outlined images, and the marks of the others (with strokes on the background where there are any): every
pixel of a known class is a sample, as the example's scribbles are.
Changed: features of edges as well; classes are weighted so that their shares are those of the outlined images, for
marks are on objects only. Probabilities become objects as `shared.divide` says.
Its own score: scikit-learn's F1 of all pixels, the mean over the classes of objects, of the likeliest class.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from shared import Shown, Task, class_map
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score

from rams_jax.types import Example

PACKAGES = ("scikit-image", "scikit-learn")
STEPS = 50  # trees, as in the example
SEMANTIC = True

_features = functools.partial(
    multiscale_basic_features, intensity=True, edges=True, texture=True, sigma_min=1, sigma_max=16, channel_axis=-1
)


def train(task: Task, folder: str) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    samples, labels = zip(*map(_known, (*task.outlined, *task.marked)), strict=True)
    labels = np.concatenate(labels)
    outlined = np.concatenate([shown.labels[shown.labels >= 0] for shown in task.outlined])
    classes = np.unique(labels)
    weights = {int(k): np.mean(outlined == k) / np.mean(labels == k) for k in classes}
    forest = RandomForestClassifier(
        n_estimators=STEPS, max_depth=10, max_samples=0.05, n_jobs=-1, class_weight=weights, random_state=task.seed
    )
    forest.fit(np.concatenate(samples), labels)

    def predict(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = []
        for image in images:
            features = _features(image)
            shares = np.zeros((*image.shape[:2], task.number_of_classes + 1), np.float32)
            shares[..., classes] = forest.predict_proba(features.reshape(-1, features.shape[-1])).reshape(
                *image.shape[:2], -1
            )
            found.append(shares[..., 1:])
        return found

    return predict


def _known(shown: Shown) -> tuple[np.ndarray, np.ndarray]:
    known = shown.labels >= 0
    return _features(shown.image)[known], shown.labels[known]


def own_scores(examples: Sequence[Example], found: Sequence[np.ndarray]) -> dict[str, float]:
    truth = np.concatenate([e.classes[e.full][e.valid] for e in examples])
    guess = np.concatenate([class_map(f)[e.valid] for e, f in zip(examples, found, strict=True)])
    names = list(range(1, found[0].shape[-1] + 1))
    return {"f1": float(f1_score(truth, guess, labels=names, average="macro"))}
