"""The network: padding, batch and tile never matter; shapes, names and numbers of its parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from rams_jax.model import Block, Convolution, MultiTaskUNet, Upsample, convolve, multiple, predictions
from rams_jax.types import ModelSettings

SETTINGS = ModelSettings(width=4, depth=3, own_levels=1, dtype="float32")


def model(classes=2, auxiliary=1, **changes):
    return MultiTaskUNet(ModelSettings(**{**vars(SETTINGS), **changes}), classes, auxiliary)


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params, image, inside):
    return net.apply(params, image, inside)


@functools.cache
def trained(net, channels=3):
    """Parameters that are not small, so that a difference would show."""
    leaves, tree = jax.tree.flatten(shapes_of(net, channels))
    rng = np.random.default_rng(2)
    # Kernels as large as they begin, gains and biases away from 1 and 0.
    scale = [np.sqrt(1 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.5 for x in leaves]
    values = [s * rng.normal(size=x.shape) + (len(x.shape) == 1) for s, x in zip(scale, leaves, strict=True)]
    return jax.tree.unflatten(tree, [x.astype(np.float32) for x in values])


def shapes_of(net, channels=3):
    side = multiple(net.settings)
    image, inside = jnp.zeros((1, side, side, channels)), jnp.ones((1, side, side), bool)
    return jax.eval_shape(lambda: net.init(jax.random.key(0), image, inside))


def frame(images, height, width, top=0, left=0, fill=0.0):
    """Images in a larger frame; `fill` stands outside."""
    batch = np.full((len(images), height, width, images[0].shape[-1]), fill, np.float32)
    inside = np.zeros(batch.shape[:3], bool)
    for i, image in enumerate(images):
        h, w = image.shape[:2]
        batch[i, top : top + h, left : left + w] = image
        inside[i, top : top + h, left : left + w] = True
    return batch, inside


@pytest.mark.parametrize(("height", "width"), [(16, 20), (13, 19), (1, 5)])
def test_padding_never_matters(height, width):
    net = model()
    params = trained(net)
    image = np.random.default_rng(height).normal(size=(height, width, 3)).astype(np.float32)
    alone = apply(net, params, *frame([image], -(-height // 4) * 4, -(-width // 4) * 4))
    # In a larger frame, shifted by multiples of 4 and with anything outside.
    for top, left, fill in ((0, 0, 0.0), (8, 4, 7.0)):
        framed = apply(net, params, *frame([image], 32, 28, top, left, fill))
        for a, b in zip(alone, framed, strict=True):
            np.testing.assert_allclose(
                a[0, :height, :width], b[0, top : top + height, left : left + width], atol=1e-5, rtol=1e-5
            )
    assert np.std(alone[0]) > 0.1


def test_the_edge_of_the_frame_is_like_padding():
    # An image that fills its frame and the same one amid padding: the convolution's own zeros and ours are the same.
    net = model()
    params = trained(net)
    image = np.random.default_rng(3).normal(size=(32, 28, 3)).astype(np.float32)
    full = apply(net, params, *frame([image], 32, 28))
    framed = apply(net, params, *frame([image], 48, 44, 8, 8, np.float32(-3)))
    for a, b in zip(full, framed, strict=True):
        np.testing.assert_allclose(a[0], b[0, 8:40, 8:36], atol=1e-4)


def test_what_is_outside_has_no_gradient():
    net = model()
    params = trained(net)
    image, inside = frame([np.random.default_rng(4).normal(size=(13, 19, 3))], 32, 28)

    def total(image):
        return sum((x * inside[..., None]).sum() for x in net.apply(params, image, inside))

    gradient = np.asarray(jax.jit(jax.grad(total))(jnp.asarray(image)))
    assert not gradient[~inside].any()
    assert (gradient[inside] != 0).mean() > 0.99


def test_the_rest_of_the_batch_does_not_matter():
    net = model()
    params = trained(net)
    rng = np.random.default_rng(5)
    images = [rng.normal(size=shape).astype(np.float32) for shape in ((16, 20, 3), (13, 19, 3), (9, 4, 3))]
    together = apply(net, params, *frame(images, 32, 28))
    turned = apply(net, params, *frame([images[2], images[1] + 9, images[0]], 32, 28))
    for a, b in zip(together, turned, strict=True):
        np.testing.assert_allclose(a[0], b[2], atol=1e-5)
        np.testing.assert_allclose(a[2], b[0], atol=1e-5)
        assert np.abs(a[1] - b[1]).max() > 0.01


@pytest.mark.parametrize(
    ("channels", "classes", "auxiliary", "depth"), [(1, 1, 0, 1), (1, 1, 1, 2), (3, 2, 0, 3), (5, 4, 3, 3)]
)
def test_output_shapes(channels, classes, auxiliary, depth):
    net = model(classes, auxiliary, depth=depth, own_levels=min(1, depth - 1))
    image, inside = jnp.zeros((2, 8, 12, channels)), jnp.ones((2, 8, 12), bool)
    logits = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), image, inside)[0])
    assert [x.shape for x in logits] == [(2, 8, 12, classes + 1), (2, 8, 12, classes), (2, 8, 12, auxiliary)]
    assert all(x.dtype == jnp.float32 for x in logits)
    shapes = jax.eval_shape(predictions, logits)
    assert shapes.segmentation.shape == shapes.approximation.shape == (2, 8, 12, classes)
    assert shapes.auxiliary.shape == (2, 8, 12, auxiliary)


def parameters(net):
    return {name: sum(x.size for x in jax.tree.leaves(part)) for name, part in shapes_of(net)["params"].items()}


def test_number_of_parameters():
    # Width 4, depth 3, one own level, 3 channels, 2 classes, 1 auxiliary task.
    # A convolution i -> o has 9 i o weights, o of its bias and o of its gain; an upsampling i -> o has i o + o.
    found = parameters(model())
    assert found == {
        "encoder0": (27 * 4 + 8) + (36 * 4 + 8),
        "encoder1": (36 * 8 + 16) + (72 * 8 + 16),
        "encoder2": (72 * 16 + 32) + (144 * 16 + 32),
        "up1_shared": 16 * 8 + 8,
        "decoder1_shared": (9 * 16 * 8 + 16) + (72 * 8 + 16),
        "up0_shared": 8 * 4 + 4,
        **{f"decoder0_{task}": 9 * 8 * 4 + 8 for task in ("segmentation", "approximation", "auxiliary")},
        "segmentation_logits": 4 * 3 + 3,
        "approximation_logits": 4 * 2 + 2,
        "auxiliary_logits": 4 * 1 + 1,
    }


def test_own_levels_say_what_the_tasks_share():
    decoders = {}
    for own in (0, 1, 2):
        decoders[own] = {name for name in parameters(model(own_levels=own)) if name.startswith("decoder")}
    tasks = ("segmentation", "approximation", "auxiliary")
    assert decoders[0] == {"decoder0_shared", "decoder1_shared"}
    assert decoders[1] == {"decoder1_shared", *(f"decoder0_{task}" for task in tasks)}
    assert decoders[2] == {f"decoder{level}_{task}" for level in (0, 1) for task in tasks}


def test_a_task_does_not_touch_what_another_owns():
    net = model()
    params = trained(net)
    image, inside = frame([np.random.default_rng(6).normal(size=(16, 20, 3))], 16, 20)
    gradient = jax.jit(jax.grad(lambda x: (net.apply(x, image, inside)[0] ** 2).sum()))(params)["params"]
    for name, part in gradient.items():
        moved = any(np.asarray(x).any() for x in jax.tree.leaves(part))
        assert moved == (
            not name.endswith(("_approximation", "_auxiliary", "approximation_logits", "auxiliary_logits"))
        )


def test_low_precision():
    net, low = model(), model(dtype="bfloat16")
    params = trained(net)
    image, inside = frame([np.random.default_rng(7).normal(size=(16, 20, 3))], 16, 20)
    exact, rough = apply(net, params, image, inside), apply(low, params, image, inside)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == jnp.float32
        assert np.isfinite(b).all()
        difference = np.abs(a - b)
        assert 0 < difference.mean() < 0.05 * np.abs(a).max()
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(shapes_of(low)))


def test_first_probabilities_are_undecided():
    net = model(depth=1, own_levels=0)
    image, inside = frame([np.random.default_rng(8).normal(size=(16, 20, 3))], 16, 20)
    params = jax.jit(net.init)(jax.random.key(3), image, inside)
    found = predictions(apply(net, params, image, inside))
    assert np.abs(found.segmentation - 1 / 3).max() < 0.1  # background and two classes
    assert np.abs(found.approximation - 0.5).max() < 0.1


def test_predictions_by_hand():
    segmentation = jnp.log(jnp.array([[[[2.0, 1.0, 5.0]]]]))
    found = predictions((segmentation, jnp.log(jnp.array([[[[1 / 3, 4.0]]]])), jnp.zeros((1, 1, 1, 1))))
    np.testing.assert_allclose(found.segmentation[0, 0, 0], [1 / 8, 5 / 8], rtol=1e-6)
    np.testing.assert_allclose(found.approximation[0, 0, 0], [0.25, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.auxiliary[0, 0, 0], [0.5])


def test_upsample_mixes_channels_and_repeats_pixels():
    layer = Upsample(5, jnp.float32)
    x = np.random.default_rng(9).normal(size=(2, 3, 4, 6)).astype(np.float32)
    params = layer.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape), params)
    kernel, bias = (np.asarray(params["params"]["Dense_0"][name]) for name in ("kernel", "bias"))
    mixed = np.einsum("bhwi,io->bhwo", x, kernel) + bias
    expected = scipy.ndimage.zoom(mixed, (1, 2, 2, 1), order=0, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape == (2, 6, 8, 5) and (expected[:, 0, 1] == expected[:, 1, 0]).all()


@pytest.mark.parametrize("centred", [True, False])
def test_a_convolution_has_centred_kernels_of_the_gain_s_norm(centred):
    layer = Convolution(5, jnp.float32, centred)
    x = np.random.default_rng(10).normal(size=(1, 9, 8, 6)).astype(np.float32)
    params = layer.init(jax.random.key(0), x)
    params = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape), params)
    kernel, gain, bias = (np.asarray(params["params"][name], np.float64) for name in ("kernel", "gain", "bias"))
    kernel = kernel - kernel.mean((0, 1, 2)) * centred
    kernel = kernel * gain / np.linalg.norm(kernel.reshape(-1, 5), axis=0)
    expected = np.zeros((9, 8, 5)) + bias
    for i, o in np.ndindex(6, 5):
        expected[..., o] += scipy.ndimage.correlate(x[0, ..., i], kernel[..., i, o], mode="constant")
    np.testing.assert_allclose(layer.apply(params, x)[0], expected, rtol=1e-4, atol=1e-4)


def test_activations_keep_their_spread():
    # Eleven layers deep, at first; without the gain of the rectified values it would be 1.7^-11.
    net = model(width=16, depth=4)
    image, inside = jax.random.normal(jax.random.key(1), (1, 64, 64, 3)), jnp.ones((1, 64, 64), bool)
    params = net.init(jax.random.key(0), image, inside)
    _, state = net.apply(params, image, inside, capture_intermediates=lambda module, _: isinstance(module, Block))
    spreads = [float(x.std()) for x in jax.tree.leaves(state["intermediates"])]
    assert len(spreads) == 9 and 0.3 < min(spreads) and max(spreads) < 3


def test_multiple():
    assert [multiple(ModelSettings(8, depth, 0, "float32")) for depth in (1, 2, 3, 5)] == [1, 2, 4, 16]


def test_brightness_is_seen():
    # Two even images of one channel, dim and bright: nothing but their brightness tells them apart.
    net = model()
    params = trained(net, channels=1)
    image, inside = frame([np.full((16, 20, 1), 0.2), np.full((16, 20, 1), 0.8)], 16, 20)
    segmentation = np.asarray(apply(net, params, image, inside)[0])
    assert np.abs(segmentation[0] - segmentation[1]).max() > 0.01


def test_images_are_centred_and_scaled():
    image = jax.random.normal(jax.random.key(3), (1, 8, 8, 2))
    inside = jnp.ones((1, 8, 8), bool)
    small = {"depth": 1, "own_levels": 0}  # the scaling comes before all layers
    plain, scaled = model(**small), model(**small, mean=(0.5, -1.0), std=(2.0, 0.25))
    params = plain.init(jax.random.key(0), image, inside)
    found = scaled.apply(params, image * jnp.array([2.0, 0.25]) + jnp.array([0.5, -1.0]), inside)
    for a, b in zip(found, plain.apply(params, image, inside), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("channels", "out"), [(3, 5), (20, 4), (4, 20)])
def test_the_gradients_of_a_convolution_are_those_of_its_sum(channels, out):
    rng = np.random.default_rng(0)
    x, kernel, weight = (rng.normal(size=size) for size in ((2, 6, 7, channels), (3, 3, channels, out), (2, 6, 7, out)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = np.array([[padded[:, i : i + 6, j : j + 7] for j in range(3)] for i in range(3)])
    of_x = np.zeros_like(padded)
    for i, j in np.ndindex(3, 3):
        of_x[:, i : i + 6, j : j + 7] += weight @ kernel[i, j].T

    def total(x, kernel):
        return (convolve(x, kernel) * weight).sum()

    found = jax.jit(jax.grad(total, (0, 1)))(x.astype(np.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(found[0], of_x[:, 1:-1, 1:-1], atol=1e-4)
    np.testing.assert_allclose(found[1], np.einsum("ijbyxc,byxo->ijco", shifted, weight), atol=1e-4)
    np.testing.assert_allclose(convolve(x, kernel), np.einsum("ijbyxc,ijco->byxo", shifted, kernel), atol=1e-4)
