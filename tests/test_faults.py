"""Steps without a finite loss: left out, kept for inspection, and after three in a row the end of the run."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import pytest
import synthetic

from rams_jax import faults, outputs, train
from rams_jax.experiment import prepare

KEY = jax.random.key(3)


def test_three_in_a_row_end_a_run_and_name_the_images(tmp_path):
    config = synthetic.small_config(synthetic.write_folder(tmp_path / "data"))
    config.train.learning_rate, config.train.log_every = 1e38, 1
    with pytest.raises(faults.NotFinite) as error:
        train.train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kept = sorted((tmp_path / "run" / faults.FOLDER).iterdir())
    assert len(kept) == faults.LIMIT == 3
    last = rows[-1]["step"] + 1  # the one that ended it has no row
    assert [path.name for path in kept] == sorted(f"step{number}.npz" for number in range(last - 2, last + 1))
    assert f"3 steps up to {last} had no finite loss" in str(error.value) and str(kept[0].parent) in str(error.value)
    assert "disc0" in str(error.value) and "disc1" in str(error.value) and "disc5" not in str(error.value)
    assert all(row["not_finite"] == 1 for row in rows[-2:]) and "not_finite" not in rows[0]


@pytest.mark.parametrize("shards", [1, 2])
def test_the_crops_that_are_kept_are_those_of_the_images_named(tmp_path, shards):
    config = synthetic.small_config(synthetic.write_folder(tmp_path / "data", images=8))
    config.train.shards = shards
    config.augment.brightness, config.augment.contrast, config.augment.noise = 0.0, 1.0, 0.0
    run, state, _ = prepare(config)
    # Every image is as bright everywhere as its position says.
    bright = np.zeros(state.data.image.shape, np.float32) + run.slots[:, None, None, None]
    state = dataclasses.replace(state, data=dataclasses.replace(state.data, image=bright))
    failed = faults.check([], 5, {"not_finite": 1.0}, run, state, KEY, tmp_path)
    crops = np.load(tmp_path / faults.FOLDER / "step5.npz")
    position = {example.name: i for i, example in enumerate(run.splits.train)}
    assert crops["name"].shape == (shards, 8 // shards) == crops["image"].shape[:2] and len(set(crops["name"].flat)) > 2
    assert set(failed[0].split(", ")) == set(crops["name"].flat)
    for name, image, inside in zip(
        crops["name"].flat, *(crops[k].reshape(-1, *crops[k].shape[2:]) for k in ("image", "inside")), strict=True
    ):
        np.testing.assert_allclose(image[inside], position[name], rtol=1e-6)
    outlined = {run.splits.train[i].name for i in run.strong}
    assert [name in outlined for name in crops["name"].flat] == crops["strong"].reshape(-1).tolist()


def test_a_good_step_between_starts_the_count_again(tmp_path, capsys):
    run, state, _ = prepare(synthetic.small_config(synthetic.write_folder(tmp_path / "data")))
    failed: list[str] = []
    for number, bad in enumerate((1, 1, 0, 1, 1), start=1):
        failed = faults.check(failed, number, {"not_finite": float(bad)}, run, state, KEY, tmp_path)
        assert len(failed) == (number if number < 3 else number - 3)
        assert ("Warning: step" in capsys.readouterr().out) == bool(bad)
    with pytest.raises(faults.NotFinite):
        faults.check(failed, 6, {"not_finite": 1.0}, run, state, KEY, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_does_what_it_always_did(number):
    received = []
    before = signal.signal(number, lambda *_: received.append(1))
    try:
        with outputs.StopOnInterrupt() as interrupt:
            assert not interrupt.requested
            os.kill(os.getpid(), number)
            assert interrupt.requested and not received
            os.kill(os.getpid(), number)
            assert received == [1]
    finally:
        signal.signal(number, before)


def test_the_means_leave_out_what_was_not_finite():
    steps = [{"loss": np.float32(x), "not_finite": np.float32(not np.isfinite(x))} for x in (1.0, np.nan, 3.0)]
    assert outputs.mean_metrics(steps) == {"loss": 2.0, "not_finite": 1.0}
    assert outputs.mean_metrics(steps[:1]) == {"loss": 1.0}
