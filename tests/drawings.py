"""A small world for the exchange of annotations: two raw images, the same objects drawn for each, a folder to fill."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from rams_jax.exchange.importing import Settings, import_annotations

SIZE = (12, 16)
CELLS = np.zeros(SIZE, np.int32)  # two objects that touch, one at the edge
CELLS[1:5, 1:6], CELLS[5:9, 2:6], CELLS[9:, 12:] = 1, 2, 3
CLASSES = {1: "nucleus", 2: "debris", 3: "nucleus"}
NAMES = ("cells_1", "cells_2")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """raw/cells_1.png and cells_2.png, and the empty folder drawn; paths are relative to here."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pathlib.Path("raw").mkdir()
    pathlib.Path("drawn").mkdir()
    for name in NAMES:
        Image.fromarray(rng.integers(0, 255, SIZE, np.uint8)).save(f"raw/{name}.png")
    return tmp_path


def take(kind="full", annotations="drawn", images="raw", out="project", **settings):
    values = {"form": None, "width": 3.0, "only": (), "class_name": None} | settings
    return import_annotations(
        pathlib.Path(images), pathlib.Path(annotations), pathlib.Path(out), Settings(kind, **values)
    )


def put(name, data):
    pathlib.Path("drawn", name).write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def square(x, y, side, class_name=None):
    corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties = {} if class_name is None else {"classification": {"name": class_name}}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation"} | properties,
    }


def files(folder="project"):
    return sorted(str(path.relative_to(folder)) for path in pathlib.Path(folder).rglob("*") if path.is_file())
