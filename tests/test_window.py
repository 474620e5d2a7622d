"""A set that does not fit: every image comes and goes, keeps its masks, and the run stays a run like any other."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import synthetic
import tifffile
from test_resume import saved

from rams_jax import config as settings
from rams_jax import experiment, memory, train, types
from rams_jax.datasets.images import decoded
from rams_jax.window import Window

IMAGES, SHARDS = 12, 2  # one outlined, on both shards; six and five marked ones


def windowed(width, turns=2):
    """The window, and a state whose data it shows."""
    examples = [synthetic.example(i, marked=6 if i == 0 else 3) for i in range(IMAGES)]
    _, state, mesh, _ = synthetic.experiment(examples, shards=SHARDS)
    data = jax.tree.map(np.array, state.data)
    data.masks.tally[...] = np.arange(data.masks.tally.size).reshape(data.masks.tally.shape)
    window = Window(data, mesh, width, turns)
    return window, synthetic.placed(dataclasses.replace(state, data=window.shown()), mesh)


def test_which_images_are_there():
    window, state = windowed(width=4)
    assert window.moves and window.period == 3  # steps, in which (1 + 4) images of a shard have two turns each
    seen = []
    for number in range(18):
        state = window.turn(state, number)
        seen.append(window.rows().reshape(SHARDS, 5).tolist())
    # Slot 0 of a shard is outlined; six slots are marked on the first, five and an empty one on the second.
    assert seen[0] == seen[2] == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]
    assert seen[3] == seen[5] == [[0, 5, 6, 3, 4], [7, 12, 8, 10, 11]]
    assert seen[6] == [[0, 5, 6, 1, 2], [7, 12, 8, 9, 10]]
    # Six moves by two places: round twice on the first shard.
    marked = np.array(seen)[:, :, 1:]
    assert set(np.bincount(marked[:, 0].reshape(-1), minlength=7)[1:]) == {12}
    assert 13 not in marked  # the empty slot
    assert (marked[-1, 1] >= 8).all() and set(marked[:, 1].reshape(-1)) == {8, 9, 10, 11, 12}


def test_images_keep_their_masks_wherever_they_are():
    window, state = windowed(width=4)
    everything = jax.tree.map(np.array, window._host)
    for number in range(30):
        state = window.turn(state, number)
        rows = window.rows()
        for name in ("image", "partial", "classes", "strong"):
            np.testing.assert_array_equal(getattr(state.data, name), getattr(everything, name)[rows], name)
        np.testing.assert_array_equal(state.data.masks.updates, everything.masks.updates[rows])
        np.testing.assert_array_equal(state.data.masks.current, everything.masks.current[rows])
        # What a step does: the masks that are there change.
        everything.masks.updates[rows] += 1
        everything.masks.current[rows] += 1
        masks = dataclasses.replace(
            state.data.masks, current=state.data.masks.current + 1, updates=state.data.masks.updates + 1
        )
        state = dataclasses.replace(state, data=dataclasses.replace(state.data, masks=masks))
        # The tallies of all images together are known at any time; these integers are exact.
        together = np.asarray(state.data.masks.tally).sum(0) + np.asarray(state.data.elsewhere).sum(0)
        np.testing.assert_array_equal(together, everything.masks.tally.sum(0))
    jax.tree.map(np.testing.assert_array_equal, window.masks(state), everything.masks)
    assert everything.masks.updates[:13].min() > 0 and everything.masks.updates[13] == 0


def test_the_number_of_devices_changes_no_mask():
    ended = []
    for devices in (1, 2):
        examples = [synthetic.example(i, marked=6 if i == 0 else 3) for i in range(IMAGES)]
        _, state, mesh, step = synthetic.experiment(examples, shards=SHARDS, devices=devices, steps=24)
        window = Window(jax.tree.map(np.array, state.data), mesh, 3, 1)
        state = synthetic.placed(dataclasses.replace(state, data=window.shown()), mesh)
        key = jax.random.key(3)
        for number in range(24):
            state, _ = step(window.turn(state, number), key)
        assert len(state.data.image.sharding.device_set) == devices
        ended.append((window.masks(state), jax.device_get(state.params)))
    (one, params), (two, others) = ended
    assert (one.current > 0).sum() > 1.1 * sum((e.partial > 0).sum() for e in examples) and one.updates.sum() == 48
    for name in ("current", "age", "held", "updates"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5)


def test_the_window_moves_between_calls_only():
    _, state, mesh, _ = synthetic.experiment([synthetic.example(i) for i in range(IMAGES)], shards=SHARDS)
    data = jax.tree.map(np.array, state.data)
    # (1 + 3) images of a shard, two of them a step: two steps, or the next multiple of five.
    assert [Window(data, mesh, 3, 2, stride).period for stride in (1, 5)] == [2, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("data") / "folder", images=IMAGES + 2)


def config(folder, width):
    found = synthetic.small_config(folder)
    found.train.window = width
    found.train.shards, found.evolution.images_per_step = 2, 4
    return found


def test_a_run_goes_on_to_the_bit_and_reports_all_images(folder, tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    summary = train.train(config(folder, 3), whole)
    assert "8 of 14 images are on the devices at a time" in capsys.readouterr().out
    evolved = {path.name for path in (whole / "evolved").glob("*_masks.tif")}
    assert len(evolved) == IMAGES - 1 and summary["masks"]["recall"] > 0.6 and summary["test"]["dice"] > 0.8
    turns = saved(whole, 40)["masks"]["updates"]
    assert turns.sum() == 40 * 2 * 2 and np.asarray(turns)[1:7].min() >= 8  # of all in reach; resident: 11.4 each
    for name in evolved:
        marks = tifffile.imread(folder / "partial" / name.replace("_masks", ""))
        assert (tifffile.imread(whole / "evolved" / name) > 0).sum() > (marks > 0).sum()

    # Killed after the first checkpoint.
    killed.mkdir()
    (killed / "config.json").write_text((whole / "config.json").read_text())
    (killed / "checkpoints").mkdir()
    (whole / "checkpoints" / "20").rename(killed / "checkpoints" / "20")
    train.train(config(folder, 3), killed)
    assert "from step 20 to 40" in capsys.readouterr().out
    a, b = saved(whole, 40), saved(killed, 40)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, jax.tree_util.keystr(path))
    assert json.loads((killed / "summary.json").read_text())["test"] == summary["test"]


def test_the_width_follows_from_the_memory(folder, monkeypatch):
    _, state, _ = experiment.prepare(config(folder, 0))
    devices = len(state.data.image.sharding.device_set)
    size = sum(x.nbytes for x in jax.tree.leaves(state.data.of_images())) / devices  # on each
    assert state.data.strong.shape == (14,)
    monkeypatch.setattr(memory, "free", lambda device: 2 * size)  # half of it is for images
    assert not experiment.prepare(config(folder, 0))[0].window.moves
    monkeypatch.setattr(memory, "free", lambda device: 2 * size * 8.1 / 14)
    run, _, _ = experiment.prepare(config(folder, 0))
    assert run.window.moves and run.window.width == 3
    monkeypatch.setattr(memory, "free", lambda device: 2 * size * 2.1 / 14)
    with pytest.raises(settings.ConfigError, match=rf"^{2 // devices} outlined images, which .* do not fit into its"):
        experiment.prepare(config(folder, 0))


def test_what_does_not_fit_into_the_memory_lies_in_files(monkeypatch, tmp_path):
    plain = synthetic.example(1)
    assert memory.keep(plain) is plain
    monkeypatch.setattr(memory, "_total", lambda: 4e9)
    monkeypatch.setattr(memory, "_available", lambda: 1e8)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = decoded([plain])[0]
    for field in dataclasses.fields(types.Example):
        np.testing.assert_array_equal(getattr(kept, field.name), getattr(plain, field.name))
    array = memory.zeros((100, 7), np.int16)
    assert array.dtype == np.int16 and array.shape == (100, 7) and not array.any()
    array[3] = 5
    assert array.sum() == 35 and list(tmp_path.iterdir()) == []  # nothing is left behind
    mapped = [line for line in open("/proc/self/maps") if str(tmp_path) in line]
    assert len(mapped) >= 5  # four maps of the image, and the array
    with pytest.raises(OSError, match="No space left|File too large"):
        memory.zeros((2**40,), np.float64)


def test_the_memory_of_a_processor_is_shared_by_its_devices(monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 8e9)
    assert memory.free(jax.devices()[0]) == 8e9 / jax.local_device_count()
    assert 0 < memory._total() < math.inf
