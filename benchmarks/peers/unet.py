"""MONAI's U-Net (MONAI 1.6.1 with PyTorch 2.13.0 when written).

Followed: MONAI's tutorial 2d_segmentation/torch/unet_training_dict.py for network, crops, optimizer, sliding windows
and the choice of the network that is best on the validation images; `ignore_index` of `monai.losses.DiceLoss`, which
the documentation has for regions without labels, and of PyTorch's cross-entropy.
Receives: the outlined images, and the marks of the others (with strokes on the background where there are any); all
other pixels are ignored by the loss. No weights from elsewhere: random initialisation.
Changed: softmax over background and classes and cross-entropy beside Dice, which is of the batch as a whole, for a crop
of marks has no background; half of the crops of a step come from outlined images, as with our rules, for marks alone
say nothing of the background; flips, contrast and noise beside the tutorial's quarter turns; a cosine schedule.
Probabilities become objects as `shared.divide` says.
Its own score: `monai.metrics.DiceMetric`, mean over images and classes of objects, of the likeliest class.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from monai.data import DataLoader, Dataset, list_data_collate
from monai.inferers import sliding_window_inference
from monai.losses import DiceLoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.networks.utils import one_hot
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandRotate90d,
    ScaleIntensity,
    ScaleIntensityd,
    SelectItemsd,
    SpatialPadd,
)
from monai.utils import set_determinism
from shared import UNKNOWN, Shown, Task, class_map

from rams_jax.types import Example

PACKAGES = ("monai", "torch")
STEPS = 1000  # of 4 crops of outlined images and 4 of the others
SEMANTIC = True
ROUNDS = 5  # scores on the validation images
CROP = (96, 96)

_AUGMENT = Compose(
    [
        ScaleIntensityd("image"),
        # An outlined square at the edge of an image may be smaller than a crop.
        SpatialPadd(["image", "object"], CROP),
        SpatialPadd("label", CROP, value=UNKNOWN),
        RandCropByPosNegLabeld(["image", "label"], "object", CROP, pos=1, neg=1, num_samples=4),
        RandRotate90d(["image", "label"], prob=0.5),
        RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandGaussianNoised("image", prob=0.3, std=0.05),
        EnsureTyped(["image", "label"], track_meta=False),
        SelectItemsd(["image", "label"]),
    ]
)


def train(task: Task, folder: str) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    set_determinism(task.seed)
    channels = task.outlined[0].image.shape[2]
    network = UNet(2, channels, task.number_of_classes + 1, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2)
    dice = DiceLoss(softmax=True, to_onehot_y=True, ignore_index=UNKNOWN, batch=True)
    entropy = torch.nn.CrossEntropyLoss(ignore_index=UNKNOWN)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    best, kept = -1.0, None
    crops = zip(_crops(task.outlined), _crops(task.marked or task.outlined), strict=True)
    for step, parts in enumerate(itertools.islice(crops, STEPS), start=1):
        network.train()
        image = torch.cat([part["image"] for part in parts])
        label = torch.cat([part["label"] for part in parts])
        optimizer.zero_grad()
        said = network(image)
        (dice(said, label) + entropy(said, label[:, 0].long())).backward()
        optimizer.step()
        schedule.step()
        if step % (STEPS // ROUNDS) == 0:
            found = _predict(network, [shown.image for shown in task.validation])
            score = _dice([shown.labels for shown in task.validation], found)
            if score > best:
                best, kept = score, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return lambda images: _predict(network, images)


def _crops(images: Sequence[Shown]) -> Iterator[dict[str, torch.Tensor]]:
    """Four crops of one image at a time, without end."""
    rows = [
        {"image": s.image.transpose(2, 0, 1), "label": s.labels[None].astype(np.float32), "object": s.labels[None] > 0}
        for s in images
    ]
    loader = DataLoader(Dataset(rows, _AUGMENT), batch_size=1, shuffle=True, collate_fn=list_data_collate)
    return itertools.chain.from_iterable(itertools.repeat(loader))


@torch.no_grad()
def _predict(network: torch.nn.Module, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    network.eval()
    scaled = [torch.as_tensor(ScaleIntensity()(image.transpose(2, 0, 1)))[None] for image in images]
    said = [sliding_window_inference(x, CROP, 4, network, overlap=0.5, mode="gaussian") for x in scaled]
    return [torch.softmax(s, 1)[0, 1:].permute(1, 2, 0).numpy() for s in said]


def _dice(truth: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    count = found[0].shape[-1] + 1
    metric = DiceMetric(include_background=False)
    for labels, probabilities in zip(truth, found, strict=True):
        guess = torch.as_tensor(np.where(labels >= 0, class_map(probabilities), 0))[None, None]
        metric(one_hot(guess, count), one_hot(torch.as_tensor(np.maximum(labels, 0))[None, None], count))
    return float(metric.aggregate())


def own_scores(examples: Sequence[Example], found: Sequence[np.ndarray]) -> dict[str, float]:
    return {"dice": _dice([np.where(e.valid, e.classes[e.full], UNKNOWN) for e in examples], found)}
