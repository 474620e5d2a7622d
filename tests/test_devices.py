"""The number of devices changes nothing: four shards on one device and on four, and what they say to each other."""

import re

import jax
import numpy as np
import pytest
import synthetic

STEPS = 8


@pytest.fixture(scope="module")
def runs():
    """`{devices: (final state on the host, metrics of each step, compiled program)}`."""
    found = {}
    for devices in (1, 4):
        # One strong image, which every shard gets, and seven weak ones: the last shard has an empty slot.
        examples = [synthetic.example(i, marked=3 if i == 5 else 6, auxiliary=1) for i in range(8)]
        _, first, mesh, step = synthetic.experiment(examples, shards=4, devices=devices, steps=STEPS, weak_crops=1)
        state, key, rows = synthetic.placed(first, mesh), jax.random.key(3), []
        compiled = step.lower(state, key).compile()
        for _ in range(STEPS):
            state, metrics = compiled(state, key)
            rows.append(jax.device_get(metrics))
        assert len(state.data.image.sharding.device_set) == devices
        assert state.params["params"]["segmentation_logits"]["kernel"].sharding.is_fully_replicated
        found[devices] = (jax.device_get(state), rows, compiled.as_text())
    return found


def test_masks_are_equal(runs):
    one, four = runs[1][0].data, runs[4][0].data
    for name in ("current", "age", "held", "updates"):
        np.testing.assert_array_equal(getattr(one.masks, name), getattr(four.masks, name), name)
    np.testing.assert_allclose(one.masks.tally, four.masks.tally, atol=2)  # a score may round to the next bin
    assert (one.masks.current > 0).sum() > 1.2 * (one.partial > 0).sum(), "nothing grew, so nothing was compared"
    # Three slots a shard, one of them strong, take turns; the empty one does too, and stays empty.
    np.testing.assert_array_equal(np.bincount(one.masks.updates), [0, 0, 4, 8])
    assert (~one.inside.any((1, 2))).sum() == 1 and not one.masks.current[~one.inside].any()


def test_parameters_and_metrics_are_close(runs):
    (one, rows_one, _), (four, rows_four, _) = runs[1], runs[4]
    for name in ("params", "ema", "opt_state", "tau"):
        for a, b in zip(jax.tree.leaves(getattr(one, name)), jax.tree.leaves(getattr(four, name)), strict=True):
            # Sums in another order; Adam divides by small gradients, so differences grow from 1e-7.
            np.testing.assert_allclose(a, b, atol=5e-5, err_msg=name)
    for a, b in zip(rows_one, rows_four, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_devices_exchange_one_sum(runs):
    kinds = r"(?<![%\w.-])(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    found = {devices: re.findall(kinds, text) for devices, (_, _, text) in runs.items()}
    assert set(found[4]) == {"all-reduce"}, "images or masks travel between devices"
    assert len(found[4]) == 1, f"{len(found[4])} sums instead of a combined one"
