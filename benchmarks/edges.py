"""Where the errors on test images lie: how many pixels are extra or missed, and how many of them touch the true edge.

  python benchmarks/edges.py --runs runs     writes benchmarks/results/explored/edges.json

Reads the predictions of the runs that `python benchmarks/compare.py --data microscopy --runs runs` has left.
"""

import argparse
import json
import pathlib

import numpy as np
import tifffile
from scipy import ndimage

from rams_jax import datasets
from rams_jax.types import MarkSettings

ROOT = pathlib.Path(__file__).resolve().parents[1]
NEAR = 1.5  # pixels from the centre of a pixel to that of the nearest one on the other side of the edge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs")
    runs = parser.parse_args().runs
    cache = pathlib.Path("~/.cache/rams_jax").expanduser()
    examples = datasets.load("scratch_assay", "", cache, 0, MarkSettings(), (0,), ()).test
    cells = {}
    for method in ("full", "rams", "strong", "multitask"):
        for seed in (0, 1, 2):
            name = f"microscopy-{method}-seed{seed}"
            found = [tifffile.imread(runs / name / "predictions" / f"{e.name}.tif") > 0 for e in examples]
            cells[name] = errors([e.full > 0 for e in examples], found, [e.valid for e in examples])
    path = ROOT / "benchmarks" / "results" / "explored" / "edges.json"
    path.write_text(json.dumps({"command": "python benchmarks/edges.py", "cells": cells}, indent=1) + "\n")
    print(path.read_text())


def errors(truth: list[np.ndarray], found: list[np.ndarray], valid: list[np.ndarray]) -> dict[str, float]:
    """Counts of bool[H, W] maps, over all images; `near` is the share of the errors within NEAR of the true edge."""
    extra = missed = near = 0
    for t, p, v in zip(truth, found, valid, strict=True):
        wrong = (p != t) & v
        distance = np.where(t, ndimage.distance_transform_edt(t), ndimage.distance_transform_edt(~t))
        edge = (distance <= NEAR) if t.any() and not t.all() else np.zeros_like(t)
        extra, missed, near = extra + (wrong & p).sum(), missed + (wrong & t).sum(), near + (wrong & edge).sum()
    return {"extra": int(extra), "missed": int(missed), "near": round(float(near / max(extra + missed, 1)), 3)}


if __name__ == "__main__":
    main()
