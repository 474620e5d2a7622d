"""nnU-Net v2, 2D, with the ignore label (nnunetv2 2.8.1 with PyTorch 2.13.0 when written).

Followed: documentation/ignore_label.md, dataset_format.md and manual_data_splits.md of nnU-Net: fingerprint, planning
and preprocessing as `nnUNetv2_plan_and_preprocess` does, fold 0 of a split with our training and validation images,
z-scores of channels, its augmentation, loss and schedule, mirrored and sliding windows in prediction.
Receives: the outlined images, and the marks of the others (with strokes on the background where there are any); all
other pixels have the ignore label.
Changed: fewer and shorter epochs; planned for less memory than the default of 8 GB
(`gpu_memory_target`), so that patches and batches are small; outlined images stand in the split as often as there are
marked ones, for marks alone say nothing of the background; no processes for augmentation. Probabilities become objects
as `shared.divide` says.
Its own score: the mean Dice of its `nnUNetv2_evaluate_folder`, over images and classes of objects.
"""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tifffile
from shared import UNKNOWN, Task, class_map

from rams_jax.types import Example

PACKAGES = ("nnunetv2", "torch")
EPOCHS, ITERATIONS = 10, 30
STEPS = EPOCHS * ITERATIONS
SEMANTIC = True
MEMORY = 0.5  # GB
_DATASET = "Dataset001_rams"


def train(task: Task, folder: str) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    base = pathlib.Path(folder).absolute()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(base / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}
    # After the folders are known: it reads them when it is imported.
    import torch
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    channels = _write(task, base / "raw" / _DATASET)
    planning.extract_fingerprints([1], num_processes=1, check_dataset_integrity=True)
    planning.plan_experiments([1], gpu_memory_target_in_gb=MEMORY)
    planning.preprocess([1], configurations=("2d",), num_processes=(1,))
    prepared = base / "preprocessed" / _DATASET
    _split(task, prepared / "splits_final.json")
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    dataset = json.loads((prepared / "dataset.json").read_text())

    os.environ["nnUNet_n_proc_DA"] = "0"  # in training; planning fails with it
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    trainer = nnUNetTrainer(plans | {"continue_training": False}, "2d", 0, dataset, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = EPOCHS, ITERATIONS, 2
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        [trainer.network.state_dict()],
        dataset,
        nnUNetTrainer.__name__,
        trainer.inference_allowed_mirroring_axes,
    )

    def predict(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = []
        for image in images:
            assert image.shape[2] == channels
            planes = image.transpose(2, 0, 1)[:, None]  # as its reader of images makes them
            _, shares = predictor.predict_single_npy_array(planes, {"spacing": (999, 1, 1)}, None, None, True)
            found.append(np.moveaxis(np.asarray(shares, np.float32)[1:, 0], 0, -1))
        return found

    return predict


def _write(task: Task, folder: pathlib.Path) -> int:
    """Writes the data set in nnU-Net's format; the number of channels."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images = (*task.outlined, *task.marked, *task.validation)
    ignore = task.number_of_classes + 1
    for number, shown in enumerate(images):
        channels = shown.image.shape[2]
        for c in range(channels):
            tifffile.imwrite(folder / "imagesTr" / f"{_case(number)}_{c:04d}.tif", shown.image[..., c])
        labels = np.where(shown.labels == UNKNOWN, ignore, shown.labels).astype(np.uint8)
        tifffile.imwrite(folder / "labelsTr" / f"{_case(number)}.tif", labels)
    classes = {f"class{k}": k for k in range(1, ignore)}
    description = {
        "channel_names": {str(c): f"channel{c}" for c in range(channels)},
        "labels": {"background": 0, **classes, "ignore": ignore},
        "numTraining": len(images),
        "file_ending": ".tif",
        "overwrite_image_reader_writer": "NaturalImage2DIO",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return channels


def _split(task: Task, path: pathlib.Path) -> None:
    strong, weak = len(task.outlined), len(task.marked)
    outlined = [_case(i) for i in range(strong)] * max(1, weak // strong)
    marked = [_case(strong + i) for i in range(weak)]
    validation = [_case(strong + weak + i) for i in range(len(task.validation))]
    path.write_text(json.dumps([{"train": outlined + marked, "val": validation}]))


def _case(number: int) -> str:
    return f"image_{number:04d}"


def own_scores(examples: Sequence[Example], found: Sequence[np.ndarray]) -> dict[str, float]:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder_simple

    base = pathlib.Path(os.environ["nnUNet_results"])
    count = found[0].shape[-1]
    for name in ("truth", "found"):
        (base / name).mkdir(parents=True, exist_ok=True)
    for number, (example, probabilities) in enumerate(zip(examples, found, strict=True)):
        truth = np.where(example.valid, example.classes[example.full], count + 1)
        tifffile.imwrite(base / "truth" / f"{_case(number)}.tif", truth.astype(np.uint8))
        tifffile.imwrite(base / "found" / f"{_case(number)}.tif", class_map(probabilities).astype(np.uint8))
    folders = str(base / "truth"), str(base / "found")
    compute_metrics_on_folder_simple(*folders, list(range(1, count + 1)), num_processes=1, ignore_label=count + 1)
    return {"dice": json.loads((base / "found" / "summary.json").read_text())["foreground_mean"]["Dice"]}
