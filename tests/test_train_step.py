"""One step and several: what changes, what does not, and nothing compiled twice."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import synthetic

from rams_jax import evolution
from rams_jax.baselines import RULES

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def rams():
    """One outlined and three marked images, one of them in part only; no auxiliary task."""
    return synthetic.experiment([synthetic.example(i, marked=3 if i == 2 else 6) for i in range(4)])


def norm(tree):
    return float(jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))))


def close(tree, expected, **tolerance):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def same(tree, expected):
    for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_parameters_and_their_average_change_as_optax_says(rams):
    program, first, mesh, step = rams
    state, metrics = step(synthetic.placed(first, mesh), KEY)
    assert int(state.step) == 1
    # Adam's first moment after one step is 0.1 of the gradient.
    gradient = jax.tree.map(lambda mu: mu / 0.1, state.opt_state[0].mu)
    optimizer = optax.adamw(0.01, weight_decay=1e-3)
    updates, _ = optimizer.update(gradient, optimizer.init(first.params), first.params)
    params = optax.apply_updates(first.params, updates)
    close(state.params, params, atol=1e-5)
    assert norm(jax.tree.map(jnp.subtract, params, first.params)) > 0.01
    # The average's first decay is (1 + 0) / (10 + 0) = 0.1, below the program's 0.9.
    close(state.ema, jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, first.params, params), atol=1e-5)
    # That it is the gradient of the loss which the step reports: finite differences along it, on the same crops.
    length, small, losses = norm(gradient), 2e-3, []
    for sign in (1, -1):
        moved = jax.tree.map(lambda p, g, sign=sign: p + sign * small * g / length, first.params, gradient)
        losses.append(float(step(synthetic.placed(dataclasses.replace(first, params=moved), mesh), KEY)[1]["loss"]))
    np.testing.assert_allclose((losses[0] - losses[1]) / (2 * small), length, rtol=0.02)
    parts = [metrics["loss_segmentation"], metrics["loss_approximation"]]
    np.testing.assert_allclose(metrics["loss"], sum(parts), rtol=1e-6)


def test_steps_compile_once_use_up_the_state_and_stay_finite(rams):
    program, first, mesh, step = rams
    state = synthetic.placed(first, mesh)
    compiled = set()
    for number in range(program.steps):
        before = state
        state, metrics = step(state, KEY)
        leaves = jax.tree_util.tree_leaves_with_path(before)
        kept = [jax.tree_util.keystr(path) for path, x in leaves if x.size and not x.is_deleted()]
        assert kept == [".tau"], "the state is not donated"  # the old threshold is not read
        compiled.add(step._cache_size())
        assert all(np.isfinite(x) for x in metrics.values()), (number, metrics)
    assert len(compiled) == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    # What is read from the data set is never changed; the masks are, each image in its turn.
    for field in dataclasses.fields(state.data):
        if field.name != "masks":
            same(getattr(state.data, field.name), getattr(first.data, field.name))
    np.testing.assert_array_equal(state.data.masks.updates, [2, 2, 2, 2])
    masks, marks = masks_of(state), first.data.partial
    np.testing.assert_array_equal(masks[marks > 0], marks[marks > 0])
    assert (masks > 0).sum() > 1.2 * (marks > 0).sum(), "nothing grew"
    assert not masks[~first.data.inside].any()


def test_a_step_without_finite_loss_changes_no_parameter(rams):
    _, first, mesh, step = rams
    broken = np.full_like(first.data.image, np.inf)
    broken = dataclasses.replace(first, data=dataclasses.replace(first.data, image=broken))
    state, metrics = step(synthetic.placed(broken, mesh), KEY)
    assert int(state.step) == 1 and float(metrics["not_finite"]) == 1
    for name in ("params", "ema", "opt_state"):
        same(getattr(state, name), getattr(first, name))
    _, metrics = step(synthetic.placed(first, mesh), KEY)
    assert float(metrics["not_finite"]) == 0


def masks_of(state):
    """A_t alone, without what else is known of pixels in no mask."""
    return np.maximum(np.asarray(state.data.masks.current), 0)


def test_age_tells_the_update_at_which_a_pixel_joined(rams):
    program, first, mesh, step = rams
    state, history = synthetic.placed(first, mesh), [masks_of(first)]
    for _ in range(program.steps):
        state, _ = step(state, KEY)
        if len(history) == 1:  # the schedule has not begun
            assert float(state.tau[0]) == evolution.CLOSED
        history.append(masks_of(state))
    masks, age = masks_of(state), np.asarray(state.data.masks.age)
    np.testing.assert_array_equal(age > 0, (masks > 0) & (first.data.partial == 0))
    for image in range(4):
        # The images take turns 0, 1, 2, 3, 0, ...: update 1 of image i is step i + 1, update 2 is step i + 5.
        early = history[image + 1][image]
        np.testing.assert_array_equal(age[image] == 1, (age[image] > 0) & (early == masks[image]))
        np.testing.assert_array_equal(age[image] == 2, (age[image] > 0) & (early != masks[image]))
        np.testing.assert_array_equal(history[image][image], first.data.partial[image])
    assert (age == 1).any() and (age == 2).any()


def test_the_segmentation_is_not_asked_about_areas_any_more_when_masks_are_full_grown(rams):
    _, first, mesh, step = rams
    state = synthetic.placed(first, mesh)
    for _ in range(4):  # half of the steps, and a turn of each image
        state, _ = step(state, KEY)
    before = np.asarray(state.data.masks.tally)
    # It sees more after some steps, which it says when asked.
    sees = jax.tree.map(lambda x: x + 0.05, state.ema)
    early = synthetic.placed(
        dataclasses.replace(jax.device_get(state), step=np.int32(0), ema=jax.device_get(sees)), mesh
    )
    state = synthetic.placed(dataclasses.replace(jax.device_get(state), ema=jax.device_get(sees)), mesh)
    for _ in range(4):
        state, early = step(state, KEY)[0], step(early, KEY)[0]
    late, asked = np.asarray(state.data.masks.tally), np.asarray(early.data.masks.tally)
    np.testing.assert_array_equal(late[..., -3], before[..., -3])
    assert (late[1:, 0, -1] != before[1:, 0, -1]).any() and (asked[1:, 0, -3] != before[1:, 0, -3]).any()


def test_the_same_state_and_key_make_the_same_step(rams):
    _, first, mesh, step = rams
    state, metrics = step(synthetic.placed(first, mesh), KEY)
    again, once_more = step(synthetic.placed(first, mesh), KEY)
    same((state, metrics), (again, once_more))
    other_key = step(synthetic.placed(first, mesh), jax.random.key(8))[1]
    # The step is folded into the key: with nothing else changed there are other crops.
    other_step = step(synthetic.placed(dataclasses.replace(first, step=np.int32(1)), mesh), KEY)[1]
    assert len({float(m["loss"]) for m in (metrics, other_key, other_step)}) == 3


@pytest.mark.parametrize("method", sorted(set(RULES) - {"rams"}))
def test_every_other_rule_takes_steps(method):
    examples = [synthetic.example(i, marked=6 if method == "full" or i != 2 else 3, auxiliary=1) for i in range(4)]
    program, first, mesh, step = synthetic.experiment(examples, method, steps=3)
    state = synthetic.placed(first, mesh)
    for _ in range(3):
        state, metrics = step(state, KEY)
        assert all(np.isfinite(x) for x in metrics.values()), metrics
        assert metrics["loss_segmentation"] > 0 and metrics["loss_auxiliary"] > 0
    assert step._cache_size() == 1
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, first.params)
    still = [jax.tree_util.keystr(path) for path, m in jax.tree_util.tree_leaves_with_path(moved) if m == 0]
    assert not still, f"{still} learnt nothing"
    if RULES[method].unmarked:
        assert (np.asarray(state.data.masks.current) == -1).any()
    else:
        same(state.data, first.data)
