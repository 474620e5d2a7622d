"""Images of bright discs with rough marks, and small experiments on them, for the tests of whole steps and runs."""

import dataclasses

import jax
import numpy as np
import optax

from rams_jax import loading, sharding
from rams_jax.baselines import RULES
from rams_jax.model import MultiTaskUNet, multiple
from rams_jax.train_step import Program, init_state
from rams_jax.types import (
    AugmentSettings,
    EvolutionSettings,
    Example,
    LossSettings,
    ModelSettings,
)

SHAPE = (28, 40)
MODEL = ModelSettings(width=4, depth=2, own_levels=1, dtype="float32")
AUGMENT = AugmentSettings(
    crop=16,
    foreground=0.5,
    rotation=180.0,
    scale=1.2,
    aspect=1.1,
    flip=True,
    elastic=0.5,
    elastic_grid=8,
    brightness=(0.1,),
    contrast=1.2,
    noise=(0.05,),
    blur=0.5,
)
LOSS = LossSettings(approximation=1.0, auxiliary=(), weak=1.0)
EVOLUTION = EvolutionSettings(
    images_per_step=1,
    start=0.0,
    end=0.5,
    coverage=1.0,
    prior_objects=15.0,
    alpha=0.5,
    size_prior=1.0,
    tau_min=0.3,
    tau_auxiliary=0.5,
    reach=2,
    monotone=False,
    stop_growth=0.0,
    max_area_factor=3.0,
    leak_factor=2.0,
    closing=(),
    seams=(),
)


def drawn(seed, shape=SHAPE):
    """Brightness, instance map and marks of six discs on a dim, noisy ground: float[H, W], int[H, W], int[H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    full, partial = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for j, (row, column) in enumerate(np.ndindex(2, 3)):
        centre = (7 + 14 * row, 7 + 13 * column) + rng.uniform(-1, 1, 2)
        radius = rng.uniform(3.5, 5)
        mark = centre + rng.uniform(-0.7, 0.7, 2)
        full[np.hypot(y - centre[0], x - centre[1]) < radius] = j + 1
        partial[np.hypot(y - mark[0], x - mark[1]) < 0.5 * radius] = j + 1
    return 0.1 + 0.8 * (full > 0) + rng.normal(0, 0.05, shape), full, partial


def example(seed, marked=6, auxiliary=0):
    """One image; with `marked` below 6 nobody outlined it, and only the first objects carry a mark."""
    bright, full, partial = drawn(seed)
    rng = np.random.default_rng(1000 + seed)
    return Example(
        name=f"disc{seed}",
        image=bright[..., None].astype(np.float32),
        full=full if marked == 6 else None,
        partial=np.where(partial <= marked, partial, 0),
        valid=np.ones(SHAPE, bool),
        classes=np.array([0, *[1] * marked], np.int32),
        auxiliary=rng.integers(0, 3, (*SHAPE, auxiliary)).astype(np.int8),
        complete=marked == 6,
    )


def experiment(examples, method="rams", shards=1, devices=1, steps=8, **changes):
    """The program, the first state on the host, its mesh, and the compiled step; image 0 is strong."""
    rule = RULES[method]
    tasks = examples[0].auxiliary.shape[-1]
    strong = list(range(len(examples))) if rule.all_strong else [0]
    model = MultiTaskUNet(MODEL, 1, tasks)
    program = Program(
        model=model,
        rule=rule,
        optimizer=optax.adamw(0.01, weight_decay=1e-3),
        augment=AUGMENT,
        loss=dataclasses.replace(LOSS, auxiliary=(0.3,) * tasks),
        evolution=dataclasses.replace(EVOLUTION, seams=tuple(range(tasks))),
        steps=steps,
        strong_crops=2,
        weak_crops=2,
        ema=0.9,
    )
    program = dataclasses.replace(program, **changes)
    mesh = sharding.make_mesh(devices)
    own = sharding.own_blocks(mesh, shards)
    data, _ = loading.load(examples, strong, 1, shards, multiple(MODEL), rule.unmarked, rule.memory, own)
    state = jax.device_get(jax.jit(init_state, static_argnums=1)(jax.random.key(0), program, data))
    return program, state, mesh, sharding.compile_step(program, state, mesh, shards)


def placed(state, mesh):
    """A copy of the state on the devices, to be used up by a step."""
    return sharding.place(state, sharding.state_specs(state), mesh)


def write_folder(path, images=6):
    """An annotated folder: full masks of all images; the last but one validates, the last tests."""
    import tifffile

    for part in ("images", "masks", "partial"):
        (path / part).mkdir(parents=True)
    rows = ["name,split"]
    for i in range(images):
        bright, full, partial = drawn(i)
        tifffile.imwrite(path / "images" / f"disc{i}.tif", (1000 * np.clip(bright, 0, 2)).astype(np.uint16))
        tifffile.imwrite(path / "masks" / f"disc{i}.tif", full.astype(np.uint16))
        tifffile.imwrite(path / "partial" / f"disc{i}.tif", partial.astype(np.uint16))
        rows.append(f"disc{i}," + ("train" if i < images - 2 else "validation" if i < images - 1 else "test"))
    (path / "splits.csv").write_text("\n".join(rows) + "\n")
    return path


def small_config(source, steps=40):
    """Settings of a run of seconds on such a folder."""
    from rams_jax import config as settings

    config = settings.default()
    config.data.name, config.data.source = "folder", str(source)
    config.model.width, config.model.depth = 4, 2
    config.augment.crop, config.augment.elastic_grid = 16, 8
    config.augment.scale, config.augment.elastic = 1.2, 0.5
    config.train.steps, config.train.warmup_steps = steps, 3
    config.train.strong_crops = config.train.weak_crops = 4
    config.train.learning_rate, config.train.ema = 0.01, 0.9
    config.train.log_every, config.train.evaluate_every, config.train.checkpoint_every = 5, 20, 20
    config.train.shards = 1
    config.evolution.images_per_step, config.evolution.reach = 2, 2
    return config
