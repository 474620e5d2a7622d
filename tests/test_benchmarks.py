"""The benchmark's tables and figures, from cells whose values are worked out by hand; none is trained here."""

import ast
import json
import pathlib

import cells
import compare
import figures
import numpy as np
import pytest
from cells import Cell

from rams_jax import config


def put(results: pathlib.Path, cell: Cell, dice: float, outlines: int = 40, marks: int = 0, **more) -> None:
    path = cell.path(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: dice for name in ("dice", "aji", "pq", "ap50")}
    known = {"method": cell.method, "data": cell.data, "seed": cell.seed, "variant": cell.variant, "seconds": 100.0}
    known |= {"outlines": outlines, "marks": marks, "strong": 1, "weak": 59 if marks else 0, "masks": None}
    path.write_text(json.dumps(known | {"test": scores} | more))


def test_the_interval_by_hand():
    # Mean 0.84, standard deviation 0.04, t(0.975, 2) = 4.3027: 4.3027 * 0.04 / sqrt(3) = 0.09937.
    assert cells.interval([0.80, 0.84, 0.88]) == pytest.approx((0.84, 0.09937), abs=1e-5)
    mean, half = cells.interval([0.7])
    assert mean == 0.7 and np.isnan(half)
    assert compare.spread([0.80, 0.84, 0.88]) == "0.840 ± 0.099" and compare.spread([0.7]) == "0.700"


def test_the_cost_and_the_cheapest_mix_by_hand():
    assert figures.cost({"outlines": 40, "marks": 300}, 60.0, 2.0) == 50.0  # minutes: 40 + 10
    points = {("rams", ""): (50.0, 0.88), ("rams", "strong3"): (90.0, 0.90), ("strong", "strong6"): (80.0, 0.90)}
    assert figures.cheapest(points, 0.87) == ("rams", "")
    assert figures.cheapest(points, 0.89) == ("strong", "strong6")
    assert figures.cheapest(points, 0.95) is None


def test_every_variant_is_a_valid_configuration():
    names = {"", "square48", "strong3", "strong1weak20", *cells.ROUGH, *cells.ABLATIONS}
    made = set()
    for name in names:
        settings = config.default()
        for change in cells.changes(name).split():
            key, value = change.split("=", 1)
            section, setting = key.split(".")
            settings[section][setting] = ast.literal_eval(value)
        config.validate(settings)
        made.add(settings.to_json())
    # "" and "default" are the same, and nothing else is: what an ablation sets is not the default already.
    assert len(made) == len(names) - 1
    with pytest.raises(ValueError, match="There is no variant 'strongweak2'"):
        cells.changes("strongweak2")
    assert set(cells.ROUGH) | {""} == set(figures.ROUGH_NAMES)


def test_numbers_in_the_name_of_a_variant():
    assert cells.changes("square48") == "data.outlined_side=48"
    assert cells.changes("square48strong2weak9") == "data.outlined_side=48 data.strong=2 data.weak=9"
    assert cells.changes("shift50") == "data.mark_shift=0.5" and cells.changes("") == ""


def test_where_a_cell_lies_and_what_makes_it(tmp_path):
    plain = Cell("histology", "", "rams", 2)
    assert plain.path(tmp_path) == tmp_path / "histology" / "rams-seed2.json"
    assert plain.command() == [
        "launch/main.py",
        "--config=configs/histology.py",
        "--config.method=rams",
        "--config.train.shards=1",
        "--config.seed=2",
    ]
    rough = Cell("microscopy:smoke", "strong3weak9", "rams", 0)
    assert rough.path(tmp_path) == tmp_path / "microscopy-smoke" / "strong3weak9" / "rams-seed0.json"
    changed = ["--config.data.strong=3", "--config.data.weak=9"]
    assert rough.command()[1:4] == ["--config=configs/microscopy.py:smoke", *changed]
    ablated = Cell("ultrasound_8", "alpha_1", "rams", 0)
    assert ablated.path(tmp_path) == tmp_path / "ablations" / "ultrasound_8" / "alpha_1-seed0.json"
    changed = ["--config.data.strong=8", "--config.train.steps=1800", "--config.evolution.alpha=1.0"]
    assert ablated.command()[2:5] == changed
    planned = cells.plan()
    assert len(planned) == len({cell.path(tmp_path) for cell in planned})
    assert planned[0] == Cell("histology", "", "full", 0)
    # Of 61 images for training 2, 5, 15 and 30, which are 3, 8, 25 and 49 %.
    outlined = {cell.variant for cell in planned if cell[0] == "food_sem_500" and cell.method == "strong"}
    assert outlined == {"", "strong2", "strong5", "strong15", "strong30"}


def test_the_time_that_is_left(tmp_path):
    assert cells.seconds([Cell("histology", "", "rams", 0)], tmp_path) is None
    put(tmp_path, Cell("histology", "", "rams", 0), 0.8, seconds=400.0)
    put(tmp_path, Cell("histology", "", "full", 0), 0.8, seconds=200.0)
    put(tmp_path, Cell("food_sem", "alpha_1", "rams", 0), 0.8, seconds=900.0)
    # That of the method; of the data set, half way between 200 and 400; of all, the middle one of 200, 400 and 900.
    for cell, expected in (
        (Cell("histology", "area5", "rams", 1), 400.0),
        (Cell("histology", "", "naive", 0), 300.0),
        (Cell("ultrasound", "", "rams", 0), 400.0),
        (Cell("food_sem", "", "rams", 0), 900.0),
    ):
        assert cells.seconds([cell], tmp_path) == pytest.approx(expected)


def test_a_run_becomes_a_cell(tmp_path):
    """A run that is whole already is not made again; a cell that is there is not written again."""
    cell = Cell("histology", "area5", "rams", 0)
    workdir = tmp_path / "runs" / "histology-area5-rams-seed0"
    workdir.mkdir(parents=True)
    (workdir / "summary.json").write_text(json.dumps({"method": "rams", "seed": 0, "test": {"dice": 0.9}}))
    rows = [{"step": 10, "loss": 1.0}, {"step": 10, "val_dice": 0.51239, "val_aji": 0.5, "masks_recall": 0.25}]
    rows += [{"step": 20, "val_dice": 0.7, "val_aji": 0.6, "masks_recall": 0.5}]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells.run_cell(cell, tmp_path, tmp_path / "runs", [])
    text = cell.path(tmp_path).read_text()
    found = json.loads(text)
    assert found["variant"] == "area5" and found["test"]["dice"] == 0.9
    assert "--config.data.mark_coverage=(0.05,0.05)" in found["command"]
    expected = {"step": [10, 20], "val_dice": [0.5124, 0.7], "val_aji": [0.5, 0.6], "masks_recall": [0.25, 0.5]}
    assert found["curve"] == expected and '"val_dice": [ 0.5124, 0.7 ]' in text
    (workdir / "summary.json").unlink()
    cells.run_cell(cell, tmp_path, tmp_path / "runs", [])
    assert cell.path(tmp_path).read_text() == text


def test_the_tables_by_hand(tmp_path):
    for seed, (low, high, reached) in enumerate([(0.80, 0.90, 0.85), (0.82, 0.90, 0.87)]):
        for method, dice in (("strong", low), ("full", high), ("rams", reached)):
            put(tmp_path, Cell("histology", "", method, seed), dice)
    failed = Cell("histology", "", "naive", 0).path(tmp_path)
    failed.write_text(json.dumps({"method": "naive", "seed": 0, "failed": "exit 1: no"}))
    put(tmp_path, Cell("histology", "", "peer", 0), 0.5)
    rows = compare.table(compare.by_method(tmp_path / "histology")).splitlines()[2:]
    # strong 0.81, full 0.90, rams 0.86: 5 of 9; two values that differ by 0.02: 12.706 * 0.01414 / sqrt(2) = 0.127.
    assert [row.split("|")[1].strip() for row in rows] == ["`full`", "`rams`", "`strong`", "`naive`", "`peer`"]
    assert "0.860 ± 0.127" in rows[1] and "56% of 0.090" in rows[1] and rows[1].endswith(" 2 |")
    assert rows[3].endswith(" 0, 1 failed |") and rows[4].endswith(" 1 |")

    # In the contest `full` lies with the whole images, the others with a square of each.
    contest = cells.CONTEST.items()
    for (data, variant), (low, high, reached) in zip(
        contest, [(0.5, 0.9, 0.8), (0.8, 0.9, 0.9), (0.6, 0.8, 0.7)] * 2, strict=False
    ):
        put(tmp_path / "contest", Cell(data, "", "full", 0), high)
        put(tmp_path / "contest", Cell(data, variant, "strong", 0), low)
        put(tmp_path / "contest", Cell(data, variant, "rams", 0), reached)
    Cell("histology", "square64", "naive", 0).path(tmp_path / "contest").write_text(failed.read_text())
    rows = compare.contest_table(tmp_path / "contest", ["rams", "full", "pseudo", "naive"]).splitlines()[2:]
    # Shares 0.75, 1, 0.5 and 0.75.
    assert rows[0] == "| `rams` | 0.800 / 0.800 (1) | 0.900 / 0.900 (1) | 0.700 / 0.700 (1) | 0.800 / 0.800 (1) | 75% |"
    assert rows[1].startswith("| `full` | 0.900") and rows[1].endswith("|  |") and len(rows) == 3
    assert rows[2] == "| `naive` | failed |  |  |  |  |"

    for name, ends in (("default", (0.80, 0.84)), ("alpha_1", (0.79, 0.80)), ("monotone", (0.81,))):
        for seed, end in enumerate(ends):
            curve = {"step": [1, 2], "val_dice": [0.1, end], "val_aji": [0.1, 0.5], "masks_recall": [0.2, 0.9]}
            put(tmp_path, Cell("histology", name, "rams", seed), 0.0, curve=curve)
    rows = compare.ablation_table(tmp_path / "ablations" / "histology").splitlines()[2:]
    assert rows[0].startswith("| default |  | 0.820 | 0.500 |")
    # The mean of -0.01 and -0.04; of the third only seed 0 is there, 0.81 after 0.80.
    assert rows[1].startswith("| alpha_1 | `evolution.alpha=1.0` | 0.795 (-0.025) | 0.500 (+0.000) |")
    assert rows[2].startswith("| monotone | `evolution.monotone=True` | 0.810 (+0.010) |") and rows[2].endswith("| 1 |")


def test_figures_show_what_is_there(tmp_path):
    assert figures.draw_all(tmp_path, tmp_path / "out") == [] and not (tmp_path / "out").exists()
    for seed in (0, 1, 2):
        steps = {"step": [10, 20], "masks_precision": [0.9, 0.9], "masks_recall": [0.3, 0.3 + 0.1 * seed]}
        put(tmp_path, Cell("microscopy", "", "rams", seed), 0.84 + 0.04 * seed, marks=300, curve=steps)
        put(tmp_path, Cell("microscopy", "strong3", "rams", seed), 0.9, 120, 300, strong=3, weak=57)
    put(tmp_path, Cell("microscopy", "", "full", 0), 0.92, 2400, strong=60)
    put(tmp_path, Cell("microscopy", "spill5", "rams", 0), 0.8, marks=300)
    old = Cell("microscopy", "", "strong", 0)  # as former versions wrote it, without the counts
    put(tmp_path, old, 0.8)
    old.path(tmp_path).write_text(old.path(tmp_path).read_text().replace("outlines", "former"))
    drawn = figures.draw_all(tmp_path, tmp_path / "out")
    kinds = ["outlined-dice", "minutes-dice", "roughness-dice", "masks"]
    assert [path.name for path in drawn] == [f"microscopy-{kind}.png" for kind in kinds]

    groups = figures.read_groups(tmp_path / "microscopy")
    assert figures.png(figures.masks(groups, "microscopy")) == drawn[-1].read_bytes(), "the same cells, the same bytes"
    figure = figures.outlined(groups, "dice", "microscopy")
    line, _, (bars,) = figure.axes[0].containers[0].lines
    np.testing.assert_allclose(line.get_ydata(), [0.88, 0.9])
    # 0.84, 0.88 and 0.92 lie as far apart as above.
    np.testing.assert_allclose(bars.get_segments()[0][:, 1], [0.88 - 0.09937, 0.88 + 0.09937], atol=1e-5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["rams (3)", "full (1)", "strong (1)"]
    figure = figures.minutes(groups, "dice", "microscopy", 60.0, 2.0, 0.95)
    # The line is at 0.95 * 0.92 = 0.874, which 40 outlines and 300 marks reach in 40 + 10 minutes.
    words = figure.legends[0].get_title().get_text()
    assert "Line: 0.874, 95% of full." in words and "rams, 50 min,\n40 outlines at 60 s and 300 marks at 2 s" in words
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["rams (3)", "full (1)"], "the cell of strong has no counts"
    assert "None that was tried reaches it." in str(
        figures.minutes(groups, "dice", "microscopy", 60.0, 2.0, 1.1).legends[0].get_title()
    )
