"""What other tools are given in benchmarks/peers, and the cells that come of it; none of the tools is needed here."""

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from rams_jax import config as settings
from rams_jax import datasets, experiment
from rams_jax.datasets.images import decoded
from rams_jax.datasets.partial import CAREFUL, annotate, choose_strong
from rams_jax.evaluate import score_instances
from rams_jax.types import NO, UNKNOWN, YES, InstanceSettings

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"
Y, X = np.mgrid[:40, :60]


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in ("shared", "run", "compare", "cells"):
        sys.modules.pop(name, None)


def example(name, tasks=("separation", "interior"), hidden=5):
    full = np.zeros(Y.shape, np.int32)
    full[np.hypot(Y - 20, X - 15) < 9] = 1
    full[np.hypot(Y - 20, X - 42) < 11] = 2
    image = (full > 0).astype(np.float32)[..., None]
    valid = X >= hidden
    return annotate(name, image, full, None, valid, 1.0, 0, CAREFUL, tasks, classes=np.array([0, 2, 1], np.int32))


@pytest.fixture
def config(monkeypatch):
    config = settings.default()
    config.data.class_names = ("a", "b")
    config.data.strong = 2
    config.seed = 3
    splits = datasets.Splits(*map(decoded, ([example(f"{i}") for i in range(6)], [example("v")], [example("t")])))
    monkeypatch.setattr(experiment, "load", lambda _: splits)
    return config


def test_the_outlined_images_are_those_of_our_runs_and_nothing_else_of_the_others_is_shown(config):
    import shared

    task, validation, test = shared.load(config)
    splits = experiment.load(config)
    strong = choose_strong(splits.train.outlined_objects(), 2, 3)
    assert [shown.name for shown in task.outlined] == [splits.train[i].name for i in strong]
    assert {shown.name for shown in task.outlined + task.marked} == {e.name for e in splits.train}
    for shown in task.outlined:
        e = next(e for e in splits.train if e.name == shown.name)
        assert e.valid.all(axis=0).tolist() == [False] * 5 + [True] * 55  # nobody looked at the left edge
        assert np.array_equal(shown.labels, np.where(e.valid, e.classes[e.full], -1))
        assert np.array_equal(shown.image, e.image)
    for shown in task.whole:  # here that is cut off
        e = next(e for e in splits.train if e.name == shown.name)
        assert np.array_equal(shown.labels, e.classes[e.full[:, 5:]]) and np.array_equal(shown.image, e.image[:, 5:])
    for shown in task.marked:
        e = next(e for e in splits.train if e.name == shown.name)
        assert shown.instances is None
        assert np.array_equal(shown.labels, np.where(e.valid & (e.partial > 0), e.classes[e.partial], -1))
    assert validation == splits.validation and test == splits.test
    assert task.number_of_classes == 2 and len(task.validation) == 1


def test_of_a_square_they_are_given_the_square_and_a_margin_without_an_answer(config):
    import shared

    config.data.outlined_side = 24
    task = shared.load(config)[0]
    for shown, whole in zip(task.outlined, task.whole, strict=True):
        # The second object alone is 21 to 22 pixels wide, so no square of 24 shows both, and the other is 17 wide.
        assert whole.labels.shape == whole.image.shape[:2] == (24, 24) and (whole.instances >= 0).all()
        known = shown.instances >= 0
        assert known.sum() <= 24**2 and known.any(axis=1).sum() == known.any(axis=0).sum() == 24
        assert shown.image.shape[:2] == known.shape and len(np.unique(shown.instances[known])) == 2
        # The images are 40 by 60, so the margin of 32 ends at their edges above and below.
        assert known.shape[0] == 40 and known.shape[1] > 24
        assert np.array_equal(shown.instances[known], whole.instances[known[known.any(1)][:, known.any(0)]])
        assert np.array_equal(shown.labels == shared.UNKNOWN, ~known)


def test_objects_that_the_square_cuts_are_unknown_or_outlined_as_far_as_they_are_in_it(config):
    import shared

    config.data.outlined_side = 40  # around one object, and part of the other is in it
    task = shared.load(config)[0]
    for shown, whole in zip(task.outlined, task.whole, strict=True):
        known = shown.instances >= 0
        inside = known[known.any(1)][:, known.any(0)]
        assert inside.shape == whole.instances.shape and (~inside).any()
        assert (whole.instances[~inside] > 0).all() and (whole.labels[~inside] > 0).all()


def test_only_strokes_on_the_background_are_background(config, monkeypatch):
    import shared

    tasks = ("separation", "background")
    splits = datasets.Splits(*map(decoded, ([example(f"{i}", tasks) for i in range(3)], [], [])))
    monkeypatch.setattr(experiment, "load", lambda _: splits)
    config.data.strong = 1
    config.data.auxiliary = tasks
    task, _, _ = shared.load(config)
    for shown in task.marked:
        e = next(e for e in splits.train if e.name == shown.name)
        strokes = e.auxiliary[..., 1] == YES
        assert strokes.any() and not e.full[strokes].any()
        assert np.array_equal(shown.labels == 0, strokes & e.valid)
        assert {UNKNOWN, NO, YES} == {0, 1, 2}  # what the strokes above are read with


def test_extent_is_the_diameter_of_discs(config):
    import shared

    assert shared.extent(shared.load(config)[0]) == pytest.approx((18 + 22) / 2, rel=0.05)


def test_probabilities_become_objects_with_classes():
    import shared

    e = example("a", hidden=0)
    right = np.stack([e.classes[e.full] == 1, e.classes[e.full] == 2], -1).astype(np.float32) * 0.9
    given = InstanceSettings(0.5, 1.0, 0.2, 4, (0,), (0,))
    found, chosen = shared.divide([e], [right], [right, 0 * right], given)
    assert (chosen.dividing, chosen.beginning) == ((), ())
    assert score_instances([e], [found[0][0]], [found[0][1]], 2)["ap50_1"] == 1.0
    assert found[1][0].max() == 0
    assert np.array_equal(shared.class_map(right), e.classes[e.full])


def test_a_missing_tool_is_one_sentence_and_no_cell(tmp_path):
    import cells

    command = [
        BENCHMARKS / "peers" / "run.py",
        "--peer=nnunet",
        "--config=configs/microscopy.py",
        f"--workdir={tmp_path}",
    ]
    hide = f"import sys, runpy; sys.modules['nnunetv2'] = None; sys.argv = {[str(c) for c in command]!r}; "
    hide += "sys.path.insert(0, sys.argv[0].rsplit('/', 1)[0]); runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide], cwd=BENCHMARKS.parent, capture_output=True, text=True)
    assert done.returncode == cells.NOT_INSTALLED
    assert done.stderr.splitlines()[-1] == "nnunet is not installed; pip install -e .[bench]"
    assert not list(tmp_path.iterdir())


def test_the_table_shows_the_cells_of_peers_beside_ours(tmp_path):
    import cells
    import compare

    # Not imported: its flags are those of launch/main.py, which another test may have defined.
    source = (BENCHMARKS / "peers" / "run.py").read_text()
    assert tuple(re.findall(r'^    "(\w+)": \("', source, re.MULTILINE)) == cells.PEERS
    scores = {"dice": 0.8, "aji": 0.6, "pq": 0.5, "ap50": 0.4}
    found = {
        "strong": {"test": scores | {"dice": 0.7}},
        "full": {"test": scores | {"dice": 0.9}},
        "ignore": {"test": scores},
        "forest": {"test": scores},
        "cellpose": {"failed": "exit 2: several classes"},
    }
    for method, cell in found.items():
        cell |= {"method": method, "seed": 0, "masks": None}
        (tmp_path / f"{method}-seed0.json").write_text(json.dumps(cell))
    rows = compare.table(compare.by_method(tmp_path)).splitlines()
    assert any(row.startswith("| `ignore` | 0.800 | 0.600 |") and "50% of 0.200" in row for row in rows)
    assert any(row.startswith("| `forest` | 0.800 | 0.600 |") and "%" not in row for row in rows)
    assert any(row.startswith("| `cellpose` |") and row.endswith("0, 1 failed |") for row in rows)
