"""One turn of the recursion for many images, here and as the obvious loop over them with scikit-image.

  python benchmarks/evolution.py                  1,000 images of 256 x 256 here, 100 in the loop
  python benchmarks/evolution.py --threads 1      on one core

Both start from the same probabilities, marks and masks, and let pixels join under the same threshold of the same score,
with m the mean of q over each object's mask. The loop does with scikit-image and SciPy what a person would write first:
the territory by a watershed of the score from the marks, the parts of the masks that are still admissible and connected
to their mark by reconstruction, growth by `reach` steps by a watershed inside the dilated mask, and the histogram of
scores. What differs: where two objects meet, the watershed's order decides instead of steps and q / m; and the loop
leaves out seams, sizes that marks foretell and brakes, which are timed on our side. `agreement` is the share of the
pixels in a mask of either that have the same id in both, without these three.
"""

import argparse
import json
import os
import pathlib
import shlex
import sys
import time
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.morphology import reconstruction
from skimage.segmentation import watershed

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from throughput import ROOT, commit, processor  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "evolution"
TAU, FLOOR, REACH, SIDE, BINS = 0.5, 0.03, 3, 256, 256
CROSS = ndimage.generate_binary_structure(2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=100, help="images that the loop does, in ten parts")
    parser.add_argument("--turns", type=int, default=4, help="images that take their turn in one call")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--note", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.threads :])
    import jax

    accelerated = jax.default_backend() != "cpu"
    clock = time.process_time if arguments.threads == 1 and not accelerated else time.perf_counter
    images = [drawn(seed) for seed in range(min(arguments.images, 40))]  # again and again: nothing is remembered
    ours, plain = our_turn(arguments.turns)
    same = [agreement(plain([image])[0], scikit_turn(**image)) for image in images[:8]]
    ours(images[: arguments.turns])  # compiles
    seconds: dict[str, list[float]] = {"ours": [], "loop": []}  # per image, in each of ten rounds
    for part in range(10):
        numbers = range(part, arguments.images, 10)
        start = clock()
        for first in range(0, len(numbers), arguments.turns):
            ours([images[i % len(images)] for i in numbers[first : first + arguments.turns]])
        seconds["ours"].append((clock() - start) / len(numbers))
        start = clock()
        for i in range(part, arguments.loop, 10):
            scikit_turn(**images[i % len(images)])
        seconds["loop"].append((clock() - start) / len(range(part, arguments.loop, 10)))
    ratios = np.array(seconds["loop"]) / np.array(seconds["ours"])
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    result = {
        "command": shlex.join(["python", "benchmarks/evolution.py", *sys.argv[1:]]),
        "commit": commit(),
        "note": arguments.note,
        "machine": f"{processor()}, {arguments.threads} of {os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
        "time": "of the processor" if arguments.threads == 1 else "by the clock",
        "milliseconds_per_image": {name: round(1000 * value, 2) for name, value in median.items()},
        "megapixels_per_second": {name: round(SIDE**2 / value / 1e6, 2) for name, value in median.items()},
        "ratio": round(float(np.median(ratios)), 2),
        "quartiles": np.percentile(ratios, (25, 75)).round(2).tolist(),
        "agreement": round(float(np.mean(same)), 4),
        "load": os.getloadavg()[0],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = jax.default_backend() if accelerated else f"{arguments.threads}threads"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def drawn(seed: int, objects: int = 24) -> dict[str, np.ndarray]:
    """Probabilities of a network that is mostly right, marks, and masks half-way between marks and objects."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    distance, partial = np.full((SIDE, SIDE), 99.0), np.zeros((SIDE, SIDE), np.int32)
    current = np.zeros_like(partial)
    for j in range(1, objects + 1):
        centre, radius = rng.uniform(20, SIDE - 20, 2), rng.uniform(10, 20)
        away = np.hypot(y - centre[0], (x - centre[1]) * rng.uniform(0.8, 1.2))
        distance = np.minimum(distance, away - radius)
        current[(away < 0.7 * radius) & (current == 0)] = j
        partial[(away < 0.4 * radius) & (partial == 0)] = j
    current = np.where(partial > 0, partial, current)
    noise = ndimage.gaussian_filter(rng.normal(size=(2, SIDE, SIDE)), (0, 3, 3)) * 8
    p, q = 1 / (1 + np.exp(np.clip(distance, -20, 20) / 2 + noise))
    return {"p": p.astype(np.float32), "q": q.astype(np.float32), "partial": partial, "current": current}


def our_turn(turns: int) -> tuple[Any, Any]:
    """`evolve` of `turns` images as in a training step, and its growth alone: heal, then `reach` steps."""
    import jax
    import jax.numpy as jnp

    from rams_jax import evolution
    from rams_jax.config import default
    from rams_jax.types import Annotation, EvolutionSettings, Level, Predictions

    config = default().evolution.to_dict() | {"reach": REACH, "tau_min": FLOOR / evolution.LAGGARD}
    settings = EvolutionSettings(**config, closing=(), seams=(0,))
    level = Level(*(jnp.float32(0.5), *(jnp.full(1, x, jnp.float32) for x in (0.2, 0.8, TAU, FLOOR, 1200.0))))

    def inputs(image: dict[str, Any]) -> tuple[Predictions, Annotation]:
        ids = jnp.arange(66)  # more than there are objects, as where images differ
        seams = jnp.zeros((SIDE, SIDE, 1))
        note = Annotation(
            inside=jnp.ones((SIDE, SIDE), bool),
            full=jnp.zeros((SIDE, SIDE), jnp.int32),
            partial=image["partial"],
            current=image["current"],
            classes=(ids > 0).astype(jnp.int32),
            strong=jnp.bool_(False),
            complete=jnp.bool_(True),
        )
        return Predictions(image["p"][..., None], image["q"][..., None], seams), note

    @jax.jit
    def whole(images: dict[str, Any]) -> Any:
        def one(image: dict[str, Any]) -> Any:
            return evolution.evolve(*inputs(image), level, settings)

        return jax.lax.platform_dependent(images, cpu=lambda x: jax.lax.map(one, x), default=jax.vmap(one))

    @jax.jit
    def growth(images: dict[str, Any]) -> Any:
        def one(image: dict[str, Any]) -> Any:
            predictions, note = inputs(image)
            field = evolution.Field(predictions, note, settings)
            start = evolution.heal(field, note.current, note.partial, level.tau)
            return evolution.grow(field, start, level.tau, REACH)

        return jax.vmap(one)(images)

    def stacked(images: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        padded = [*images, *images[:1] * (turns - len(images))]  # a last call of fewer images compiles nothing new
        return {name: np.stack([image[name] for image in padded]) for name in images[0]}

    return (
        lambda images: jax.block_until_ready(whole(stacked(images))),
        lambda images: np.asarray(growth(stacked(images))),
    )


def scikit_turn(p: np.ndarray, q: np.ndarray, partial: np.ndarray, current: np.ndarray) -> np.ndarray:
    """The next masks of one image."""
    ids = np.arange(1, current.max() + 1)
    mean = np.concatenate([[1.0], ndimage.mean(q, current, ids)])

    def score(owners: np.ndarray) -> np.ndarray:
        return np.sqrt(p * np.minimum(1.0, q / mean[owners]))

    nearest = watershed(-q, partial, connectivity=CROSS)
    of_nearest = score(nearest)
    territory = watershed(-of_nearest, partial, connectivity=CROSS, mask=(of_nearest >= FLOOR) | (partial > 0))
    np.histogram(score(territory)[(territory > 0) & (partial == 0)], BINS, (0, 1))
    stays = (current > 0) & (score(current) >= TAU) | (partial > 0)
    seeds = np.where(partial > 0, current, 0)
    healed = reconstruction(seeds, np.where(stays, current, 0), footprint=CROSS).astype(np.int32)
    healed = np.where(healed == current, healed, 0)  # what spilled over from another object
    admissible = (of_nearest >= TAU) | (healed > 0)
    reached = ndimage.binary_dilation(healed > 0, CROSS, REACH, mask=admissible)
    return watershed(-of_nearest, healed, connectivity=CROSS, mask=reached)


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of the pixels that either has in a mask on which both agree."""
    return float((ours == theirs)[(ours > 0) | (theirs > 0)].mean())


if __name__ == "__main__":
    main()
