"""The benchmark against PyTorch: both sides compute the same."""

import dataclasses
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import synthetic

from rams_jax.model import MultiTaskUNet, forward
from rams_jax.train_step import batch_loss, step_crops

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))


def one_batch(data, program):
    crops = jax.jit(lambda data: step_crops(data, jnp.int32(0), jax.random.key(3), jnp.arange(1), program)[0])
    return jax.tree.map(lambda x: x[0], crops(data))


@pytest.mark.parametrize(("depth", "own"), [(2, 1), (3, 2)])
def test_same_logits_loss_and_gradients(depth, own):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install -e '.[bench]'")
    import torch_unet

    examples = [synthetic.example(i, auxiliary=2) for i in range(3)]
    program, state, _, _ = synthetic.experiment(examples, "multitask")
    settings = dataclasses.replace(program.model.settings, depth=depth, own_levels=own, mean=(0.3,), std=(0.7,))
    program = dataclasses.replace(program, model=MultiTaskUNet(settings, 1, 2))
    batch = one_batch(state.data, program)
    params = jax.jit(program.model.init)(jax.random.key(1), batch.image, batch.inside)
    rng = np.random.default_rng(0)  # last layers that say something, gains and biases that differ
    params = jax.tree.map(lambda x: np.asarray(x + 0.1 * rng.normal(size=x.shape), np.float32), params)
    logits = jax.jit(program.model.apply)(params, batch.image, batch.inside)

    def loss(params):
        return batch_loss(forward(program.model, params, batch.image, batch.inside), batch, 0.0, 0.0, program)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)

    trainer = torch_unet.Trainer(program, state.data, params, compiled=False)
    tensors = {f.name: torch.tensor(np.asarray(getattr(batch, f.name))) for f in dataclasses.fields(batch)}
    tensors |= {name: tensors[name].long() for name in ("full", "current", "auxiliary")}
    tensors["image"] = tensors["image"].permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = trainer.net(tensors["image"], tensors["inside"])
    for a, b in zip(logits, theirs, strict=True):
        assert np.std(a) > 0.01
        np.testing.assert_allclose(a, b.permute(0, 2, 3, 1).numpy(), atol=2e-5)
    np.testing.assert_allclose(trainer.gradient(tensors), value, rtol=1e-5)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(trainer.net.gradients()), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max() + 1e-7, err_msg=jax.tree_util.keystr(path))


def test_crops_are_drawn_from_the_same_places():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install -e '.[bench]'")
    import torch_unet

    # Nothing random is left but the centre, and of that only one pixel: both must cut the same crop.
    program, state, _, _ = synthetic.experiment([synthetic.example(i, auxiliary=1) for i in range(2)], "multitask")
    still = {"rotation": 0.0, "scale": 1.0, "aspect": 1.0, "flip": False, "elastic": 0.0, "foreground": 1.0}
    still |= {"brightness": (0.0,), "contrast": 1.0, "noise": (0.0,), "blur": 1e-6}
    program = dataclasses.replace(program, augment=dataclasses.replace(program.augment, **still))
    partial = np.zeros_like(state.data.partial)
    partial[:, 9, 36] = 1  # the crop reaches beyond the right edge
    data = dataclasses.replace(state.data, full=np.zeros_like(state.data.full), partial=partial)
    ours = one_batch(data, program)
    theirs = torch_unet.Trainer(program, data, state.params, compiled=False)
    found = torch_unet.crops(theirs.data, torch.tensor(np.asarray(ours.slot)).long(), program.augment)
    np.testing.assert_allclose(found["image"].permute(0, 2, 3, 1), ours.image, atol=1e-5)
    for name in ("inside", "valid", "full", "current", "auxiliary", "strong", "complete"):
        np.testing.assert_array_equal(found[name], getattr(ours, name), err_msg=name)
    assert np.std(ours.image) > 0.1 and not ours.inside.all()
