"""Eight steps whose outcome is written down: no change of the mathematics goes unnoticed."""

import jax
import jax.numpy as jnp
import numpy as np
import synthetic

# Updating these numbers is legitimate when a commit means to change what a step computes (network, losses, crops,
# augmentation, optimiser, recursion, streams of random numbers) and says so in CHANGELOG.md, or when a new version of
# jax or optax does and nothing else has changed. It is not when a commit was to change speed, layout or names only:
# then this test has found a mistake. The tolerance allows for another processor.
LOSSES = [1.953546, 1.906079, 1.230489]  # of the first, second and last step
PARAMETERS = 230.2901  # sum of their magnitudes after the last step
AVERAGED = 229.4461  # the same of the averaged ones
GROWN = 1014  # pixels in masks


def test_golden_steps():
    examples = [synthetic.example(i, marked=3 if i == 2 else 6) for i in range(4)]
    _, first, mesh, step = synthetic.experiment(examples)
    state, losses = synthetic.placed(first, mesh), []
    for _ in range(8):
        state, metrics = step(state, jax.random.key(7))
        losses.append(float(metrics["loss"]))

    def checksum(tree):
        return float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(tree)))

    np.testing.assert_allclose([losses[0], losses[1], losses[-1]], LOSSES, rtol=2e-4)
    np.testing.assert_allclose(checksum(state.params), PARAMETERS, rtol=1e-4)
    np.testing.assert_allclose(checksum(state.ema), AVERAGED, rtol=1e-4)
    assert abs(int((state.data.masks.current > 0).sum()) - GROWN) <= 3
