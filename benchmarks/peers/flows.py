"""Cellpose 3 from scratch (cellpose 3.1.1.3 with PyTorch 2.13.0 when written); version 4 is SAM, with weights only.

Followed: docs/train.rst of version 3: training from scratch (`pretrained_model=None`) with the diameter to which
objects are scaled, 17 pixels as for its own model of nuclei, or 30 as for all others where objects are wider than that;
SGD at 0.1 with weight decay 1e-4.
Receives: the outlined images only. Flows lead to the middle of whole objects, and its documentation has no label for
pixels that nobody looked at, so marks cannot be given, and of a square it sees the objects that the edge cuts outlined
too, as far as they are in it, which is more than our rules see. One kind of objects: it has no classes.
Changed: an epoch is one batch of 8 crops, 112 pixels wide, for there is but one image; images with a single object
count, and objects may fill the image; the threshold of the cell probability is the best of five on eight validation
images, by its own average precision.
Its own scores: `cellpose.metrics.average_precision` at an IoU of 0.5 and `aggregated_jaccard_index`, means over images.
"""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from cellpose.metrics import aggregated_jaccard_index, average_precision
from cellpose.models import CellposeModel
from cellpose.train import train_seg
from shared import Found, Task, extent

from rams_jax.config import ConfigError
from rams_jax.types import Example

PACKAGES = ("cellpose", "torch")
STEPS = 250  # of 8 crops
SEMANTIC = False
NUCLEI, OTHERS = 17.0, 30.0  # pixels
THRESHOLDS = (0.0, -1.0, 1.0, -2.0, 2.0)


def train(task: Task, folder: str) -> Callable[[Sequence[np.ndarray]], list[Found]]:
    if task.number_of_classes > 1:
        raise ConfigError("Cellpose finds one kind of objects, and these data have several classes.")
    torch.manual_seed(task.seed)
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    diameter = NUCLEI if extent(task) < OTHERS else OTHERS
    path, *_ = train_seg(
        CellposeModel(pretrained_model=None, diam_mean=diameter).net,
        train_data=[shown.image for shown in task.whole],
        train_labels=[np.maximum(shown.instances, 0) for shown in task.whole],
        channels=[0, 0],
        channel_axis=-1,
        SGD=True,
        learning_rate=0.1,
        weight_decay=1e-4,
        n_epochs=STEPS,
        nimg_per_epoch=8,
        batch_size=8,
        bsize=112,
        min_train_masks=1,
        save_path=folder,
        model_name="cellpose",
    )
    model = CellposeModel(pretrained_model=str(path))

    def masks(images: Sequence[np.ndarray], threshold: float) -> list[np.ndarray]:
        settings = {"channels": [0, 0], "channel_axis": -1, "max_size_fraction": 1.0, "cellprob_threshold": threshold}
        return [model.eval(image, **settings)[0].astype(np.int32) for image in images]

    some = task.validation[:8]
    truth = [np.maximum(shown.instances, 0) for shown in some]
    scores = [average_precision(truth, masks([s.image for s in some], t), [0.5])[0].mean() for t in THRESHOLDS]
    threshold = THRESHOLDS[int(np.argmax(scores))]
    return lambda images: [
        (m, np.minimum(np.arange(m.max() + 1), 1).astype(np.int32)) for m in masks(images, threshold)
    ]


def own_scores(examples: Sequence[Example], found: Sequence[Found]) -> dict[str, float]:
    truth = [np.where(e.valid, e.full, 0) for e in examples]
    guess = [np.where(e.valid, f[0], 0) for e, f in zip(examples, found, strict=True)]
    return {
        "average_precision": float(average_precision(truth, guess, [0.5])[0].mean()),
        "aji": float(np.mean(aggregated_jaccard_index(truth, guess))),
    }
