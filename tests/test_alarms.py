"""Masks that leak or collapse are told at once, on the progress line, and at the end; honest ones are not."""

import dataclasses
import json

import jax
import numpy as np
import synthetic

from rams_jax import outputs


def rows(*pairs):
    return [{"step": 10 * i, "loss": 1.0, "area": a, "goal": g} for i, (a, g) in enumerate(pairs, start=1)]


def test_honest_growth_is_silent():
    grown = rows((1.0, 1.0), (1.9, 2.0), (3.4, 3.4), (3.9, 3.5), (3.3, 3.5))  # 3.9 is 1.11 of 3.5, 3.3 is 0.85 of 3.9
    assert outputs.alarms(grown) == []
    assert outputs.alarms([{"step": 5, "val_dice": 0.5}, *rows((0.0, 0.0))]) == []
    assert outputs.alarms(rows((0.0, 1.0), (-1.0, 1.0), (1.0, 1.0))) == []  # never held, so not lost
    assert outputs.short(grown[-1], []) == {"loss": "1.000", "masks": "3.30x marks"}


def test_a_leak_and_a_collapse():
    course = rows((2.0, 2.0), (2.4, 2.0), (2.5, 2.0), (2.5, 2.5), (1.9, 2.5))
    leak, collapse = outputs.alarms(course)
    assert (leak.kind, leak.over, collapse.kind, collapse.over) == ("LEAK", True, "COLLAPSE", False)
    said = "The masks leak: at step 20 they hold 120% of the area that the schedule asks for."
    assert leak.sentence == f"{said} It was over at step 40."
    assert collapse.sentence == "The masks collapse: at step 50 they hold 76% of the area that they had before."
    assert outputs.short(course[-1], [leak, collapse])["alarm"] == "COLLAPSE"
    assert "alarm" not in outputs.short(course[-2], [leak])


def test_the_log_says_it_once_and_remembers(tmp_path, capsys):
    log = outputs.Log(tmp_path, 0, grows=True)
    for row in rows((2.0, 2.0), (2.4, 2.0), (2.5, 2.0)):
        log.write(row.pop("step"), row, 1.0)
    assert capsys.readouterr().out.count("Warning: The masks leak: at step 20") == 1
    again = outputs.Log(tmp_path, 20, grows=True)
    assert [alarm.kind for alarm in again.alarms] == ["LEAK"] and capsys.readouterr().out == ""
    baseline = outputs.Log(tmp_path / ".", 20, grows=False)
    baseline.write(30, {"area": 9.0, "goal": 2.0}, 2.0)
    assert baseline.alarms == [] and capsys.readouterr().out == ""
    assert len([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]) == 3


def test_a_state_whose_masks_hold_too_much_or_too_little():
    examples = [synthetic.example(i) for i in range(4)]
    _, first, mesh, step = synthetic.experiment(examples)
    found = []
    for area in (100.0, 1000.0, 100.0):  # of the masks of each image; of its marks 100
        tally = np.zeros_like(first.data.masks.tally)
        tally[..., -2], tally[..., -1] = 100.0, area
        masks = dataclasses.replace(first.data.masks, tally=tally)
        state = dataclasses.replace(first, data=dataclasses.replace(first.data, masks=masks))
        _, metrics = step(synthetic.placed(state, mesh), jax.random.key(0))
        found.append({"step": len(found) + 1} | outputs.mean_metrics([metrics]))
    assert [row["area"] for row in found] == [1.0, 10.0, 1.0]
    assert [alarm.kind for alarm in outputs.alarms(found)] == ["LEAK", "COLLAPSE"]
