"""Steps whose loss or gradient is not finite: `train_step` leaves them out, here their crops are kept."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rams_jax import processes, storage
from rams_jax.experiment import Run
from rams_jax.train_step import step_crops
from rams_jax.types import TrainState

LIMIT = 3  # such steps in a row end the run
FOLDER = "not_finite"


class NotFinite(RuntimeError):
    """No step in a row of `LIMIT` had a finite loss and gradient; the message names steps, images and files."""


def check(
    failed: list[str],
    number: int,
    metrics: Mapping[str, np.ndarray],
    run: Run,
    state: TrainState,
    key: jax.Array,
    path: pathlib.Path,
) -> list[str]:
    """Looks at a step that is done; what was left out is written to `path/not_finite/stepNUMBER.npz`, and said.

    The file holds the fields of `Batch` with the names of the images as `name`; `current` is as it was after the call.

    Args:
      failed: names of the images in the steps left out up to now without one between that was not, by `check`.
      number: of the step, from 1.
      metrics: of the step.
      run: what is trained.
      state: after the call that the step belongs to.
      key: random key of the training.
      path: the workdir.

    Returns:
      The same with the names of this step, or nothing.

    Raises:
      NotFinite: this was the last of `LIMIT` in a row.
    """
    if not float(metrics["not_finite"]):
        return []
    shards = state.data.strong_slots.shape[0]
    sample = jax.jit(lambda data, key: step_crops(data, jnp.int32(number - 1), key, jnp.arange(shards), run.program)[0])
    batch = processes.whole(sample(state.data, key))
    shown = run.shown()
    slots = batch.slot + np.arange(shards)[:, None] * (len(shown) // shards)
    names = [run.splits.train.names[position] for position in shown[slots.reshape(-1)]]
    file = path / FOLDER / f"step{number}.npz"
    if processes.first():
        file.parent.mkdir(exist_ok=True)
        content = io.BytesIO()
        np.savez(content, name=np.array(names).reshape(slots.shape), **vars(batch))
        storage.write_whole(file, content.getvalue())
    failed = [*failed, ", ".join(dict.fromkeys(names))]
    if len(failed) == LIMIT:
        raise NotFinite(
            f"{LIMIT} steps up to {number} had no finite loss or gradient; their crops are in {file.parent}, of "
            f"{'; '.join(failed)}: look at these, or lower train.learning_rate in another --workdir."
        )
    if processes.first():
        print(f"Warning: step {number} had no finite loss or gradient and was left out; its crops: {file}.")
    return failed
