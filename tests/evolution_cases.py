"""Images for the tests of the recursion, and `evolve` on lists of them."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
from evolution_reference import Case
from scipy import ndimage

from rams_jax import evolution
from rams_jax.types import Annotation, EvolutionSettings, Level, Predictions

SETTINGS = EvolutionSettings(
    images_per_step=1,
    start=0.2,
    end=0.8,
    coverage=1.0,
    prior_objects=15.0,
    alpha=0.5,
    size_prior=0.0,
    tau_min=0.3,
    tau_auxiliary=0.6,
    reach=2,
    monotone=False,
    stop_growth=0.0,
    max_area_factor=1e6,
    leak_factor=1e6,
    closing=(),
    seams=(),
)
NUMBERS = ("alpha", "size_prior", "tau_min", "tau_auxiliary", "reach", "stop_growth", "max_area_factor", "leak_factor")


def channels(case):
    """Of the auxiliary channels of a case the first closes, the others see seams."""
    count = case.s.shape[-1]
    return {"closing": (0,)[:count], "seams": tuple(range(1, count))}


@functools.partial(jax.jit, static_argnames="monotone")
def _evolve(case, strong, numbers, monotone):
    # One compilation for all values of the settings; `evolve` reads them as attributes.
    settings = types.SimpleNamespace(**numbers, monotone=monotone, **channels(case))

    def one(case, strong):
        note = Annotation(case.inside, case.full, case.partial, case.current, case.classes, strong, True)
        level = Level(jnp.float32(0), case.rho, case.kappa, case.tau, jnp.zeros_like(case.tau), case.largest)
        return evolution.evolve(Predictions(case.p, case.q, case.s), note, level, settings)

    return jax.vmap(one)(case, strong)


def fast(cases, settings=SETTINGS, strong=False):
    """`evolution.evolve` of a list of cases of the same shapes; NumPy arrays with a leading axis."""
    count = len(cases)
    if cases[0].inside.size < 1000:  # one batch size for the small images: fewer compilations
        cases = [*cases, *[cases[0]] * (-count % 8)]
    stacked = types.SimpleNamespace()
    for field in dataclasses.fields(Case):
        values = np.stack([getattr(case, field.name) for case in cases])
        dtype = {"f": np.float32, "i": np.int32, "b": bool}[values.dtype.kind]
        setattr(stacked, field.name, jnp.asarray(values.astype(dtype)))
    stacked = jax.tree.map(jnp.asarray, Case(**vars(stacked)))
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    update = _evolve(stacked, jnp.full(len(cases), strong), numbers, settings.monotone)
    return jax.tree.map(lambda x: np.asarray(x)[:count], update)


jax.tree_util.register_dataclass(Case)


def random_case(seed, classes=1, auxiliary=1, shape=(18, 22), instances=6, separated=True):
    """Smooth random maps; marks are single blobs; current masks are torn, larger versions of them."""
    rng = np.random.default_rng(seed)

    def smooth(channels, sigma=1.5):
        noise = ndimage.gaussian_filter(rng.normal(size=(*shape, channels)), (sigma, sigma, 0))
        return noise / noise.std(axis=(0, 1))

    p = 1 / (1 + np.exp(-1.5 * smooth(classes) - 1))
    q = 0.02 + 0.6 / (1 + np.exp(-1.5 * smooth(classes)))
    s = 1 / (1 + np.exp(-1.2 * smooth(auxiliary) + (0.5 if separated else 99)))
    partial = np.zeros(shape, int)
    for j in range(1, instances + 1):
        row, column = rng.integers(shape[0] - 1), rng.integers(shape[1] - 1)
        blob = np.zeros(shape, bool)
        blob[row : row + rng.integers(1, 3), column : column + rng.integers(1, 4)] = True
        partial[blob & (partial == 0)] = j
    inside = np.ones(shape, bool)
    inside[:, -2:] = False
    partial[~inside] = 0
    current = partial.copy()
    for _ in range(3):
        for shift in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            moved = np.roll(current, shift, (0, 1))
            current = np.where((current == 0) & (rng.random(shape) < 0.35), moved, current)
    current[~inside] = 0
    of_ids = np.concatenate([[0], rng.integers(1, classes + 1, instances), np.arange(1, classes + 1)])
    return Case(
        p=p.astype(np.float32),
        q=q.astype(np.float32),
        s=s.astype(np.float32),
        inside=inside,
        full=np.zeros(shape, int),
        partial=partial,
        current=current,
        classes=of_ids,
        tau=rng.uniform(0.45, 0.7, classes),
        rho=np.linspace(0.05, 0.08, classes),  # so that sizes differ both ways from what marks foretell
        kappa=np.full(classes, 0.5),
        largest=rng.uniform(15, 25, classes),
    )


BRAKED = dataclasses.replace(SETTINGS, stop_growth=0.2, max_area_factor=1.2, leak_factor=0.5)


def case_of(labels, q=0.5, p=1.0, inside=True, current=None, tau=0.5, largest=100.0, full=None, kappa=0.5):
    """A 5 x 5 image of one class with marks `labels`."""
    labels = np.asarray(labels)
    shape = labels.shape

    def maps(values):
        return np.broadcast_to(np.asarray(values, np.float32), shape)[..., None].copy()

    return Case(
        p=maps(p),
        q=maps(q),
        s=np.zeros((*shape, 0), np.float32),
        inside=np.broadcast_to(inside, shape).copy(),
        full=np.zeros(shape, int) if full is None else np.asarray(full),
        partial=labels,
        current=labels if current is None else np.asarray(current),
        classes=np.array([0, 1, 1, 1]),
        tau=np.array([tau]),
        rho=np.array([0.25]),
        kappa=np.array([kappa]),
        largest=np.array([largest]),
    )


CORRIDOR = np.arange(5)[:, None] == 2  # only the middle row is in the image


def row(*values):
    maps = np.zeros((5, 5), np.asarray(values).dtype)
    maps[2] = values
    return maps
