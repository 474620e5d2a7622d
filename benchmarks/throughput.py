"""Training here and in PyTorch, compiled and not, alternately in one run: crops a second, parts of a step, memory.

  python benchmarks/throughput.py                                  configs/microscopy.py on all cores
  python benchmarks/throughput.py --config food_sem --threads 1    another one, on one core
  python benchmarks/throughput.py --dtype bfloat16 --width 64      on a GPU, if jax finds one; not tried yet

Both sides have the same network with the same first parameters, losses, crops, augmentation, precision and optimiser
(label rule `multitask`, which is `rams` without evolution); tests/test_throughput.py compares their gradients. Each
round times every part of both, one after the other, for a moment; printed are medians over the rounds, and the median
of the ratios within a round with its quartiles, so that other work on the machine harms little; on one core the time
is the processor's, not the clock's, and harms even less. Our step and evolution are on as many devices as in a run of
launch/main.py, two of a CPU with two cores; the other parts are on one. Needs `pip install -e '.[bench]'`.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import platform
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rams_jax import commandline

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "throughput"
PARTS = ("sample", "forward", "gradient", "step")
Timed = dict[tuple[str, str], Callable[[], Any]]  # by side and part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="microscopy", help="a file in configs/")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores for both sides")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of activations")
    parser.add_argument("--width", type=int, default=0, help="channels at full resolution; 0: as in the config")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each part of each round")
    parser.add_argument("--note", default="", help="what else ran on the machine")
    parser.add_argument("--skip_start", action="store_true", help="leave out compile time and memory")
    parser.add_argument("--first", choices=("ours", "compiled"), help="only time one side's start and exit")
    arguments = parser.parse_args()
    # Before the libraries make their threads.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-arguments.threads :])
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the GPU
    commandline.keep_memory()  # it helps both sides
    commandline.use_two_cores()
    if arguments.first:
        print(json.dumps(start(arguments)))
        return
    starts = {side: in_a_process_of_its_own(side) for side in ("ours", "compiled") if not arguments.skip_start}
    ours, program, batch, stride = our_parts(arguments)
    theirs = torch_parts(arguments, "compiled", stride) | torch_parts(arguments, "eager", stride)
    clock = time.process_time if arguments.threads == 1 and not on_gpu() else time.perf_counter
    products = ceilings(arguments.dtype, ceiling_side())
    seconds = measure(ours | theirs | products, arguments.rounds, arguments.seconds, clock)
    for side in ("ours", "compiled", "eager"):
        seconds[side, "step"] = [value / stride for value in seconds[side, "step"]]
    result = describe(arguments, seconds, program, batch) | {"start": starts}
    name = "-".join([arguments.config, arguments.dtype, "gpu" if on_gpu() else f"{arguments.threads}threads"])
    name += f"-width{arguments.width}" if arguments.width else ""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def on_gpu() -> bool:
    """Whether jax computes on a GPU; then torch does too."""
    import jax

    return jax.default_backend() == "gpu"


def ceiling_side() -> int:
    """Of the matrices whose product is the machine's ceiling."""
    return 8192 if on_gpu() else 2048


def prepared(arguments: argparse.Namespace, method: str, shards: int = 0) -> tuple[Any, Any, Any]:
    """Run, state and compiled step of the experiment with this label rule; 0 shards: as many as in any run."""
    from rams_jax import experiment

    path = ROOT / "configs" / f"{arguments.config}.py"
    spec = importlib.util.spec_from_file_location(arguments.config, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.method, config.train.shards, config.model.dtype = method, shards, arguments.dtype
    config.model.width = arguments.width or config.model.width
    return experiment.prepare(config)


def our_parts(arguments: argparse.Namespace) -> tuple[Timed, Any, Any, int]:
    """Each part as a function that ends when its result is there; also the program, a batch and steps of a call."""
    import jax
    import jax.numpy as jnp

    from rams_jax import sharding
    from rams_jax.model import forward
    from rams_jax.train_step import batch_loss, step_crops

    run, state, _ = prepared(arguments, "multitask", shards=1)
    program, data, params, key = run.program, state.data, state.params, jax.random.key(0)
    numbers = iter(range(10**9))

    @jax.jit
    def sample(data: Any, number: Any) -> Any:
        return jax.tree.map(lambda x: x[0], step_crops(data, number, key, jnp.arange(1), program)[0])

    def loss(params: Any, batch: Any) -> Any:
        logits = forward(program.model, params, batch.image, batch.inside)
        return batch_loss(logits, batch, jnp.float32(0), jnp.float32(0), program)[0]

    value, gradient = jax.jit(loss), jax.jit(jax.grad(loss))
    batch = sample(data, 0)
    _, *held = prepared(arguments, "multitask")

    def whole_step() -> Any:
        held[0], metrics = held[1](held[0], key, run.stride)
        return jax.block_until_ready(metrics)

    grown, grown_state, grow = prepared(arguments, "rams")
    turn = sharding.compile_turn(grown.program, grown_state)
    # A network that sees something, and masks on their way: half of a short run.
    for number in range(80):
        grown_state, _ = grow(dataclasses.replace(grown_state, step=jnp.int32(number * program.steps // 160)), key)
    parts: Timed = {
        ("ours", "sample"): lambda: jax.block_until_ready(sample(data, next(numbers))),
        ("ours", "forward"): lambda: value(params, batch).block_until_ready(),
        ("ours", "gradient"): lambda: jax.block_until_ready(gradient(params, batch)),
        ("ours", "step"): whole_step,
        ("ours", "evolution"): lambda: jax.block_until_ready(turn(grown_state)),
    }
    return parts, program, batch, run.stride


def torch_parts(arguments: argparse.Namespace, side: str, stride: int) -> Timed:
    """The same of PyTorch, `compiled` or `eager`; waits for a GPU after so many steps."""
    import jax
    import torch
    import torch_unet

    torch.set_num_threads(arguments.threads)
    run, state, _ = prepared(arguments, "multitask", shards=1)
    trainer = torch_unet.Trainer(
        run.program,
        state.data,
        jax.tree.map(np.asarray, state.params),
        device="cuda" if on_gpu() else "cpu",
        compiled=side == "compiled",
    )
    batch = trainer.sample()
    return {
        (side, "sample"): lambda: torch_waits(trainer.sample),
        (side, "forward"): lambda: torch_waits(lambda: trainer.forward(batch)),
        (side, "gradient"): lambda: torch_waits(lambda: trainer.gradient(batch)),
        (side, "step"): lambda: torch_waits(lambda: [trainer.step() for _ in range(stride)]),
    }


def torch_waits(function: Callable[[], Any]) -> Any:
    """What it returns, once a GPU has done it."""
    import torch

    result = function()
    if on_gpu():
        torch.cuda.synchronize()
    return result


def ceilings(dtype: str, side: int) -> Timed:
    """A large matrix product of this precision on both sides; the better one is the machine's ceiling."""
    import jax
    import jax.numpy as jnp
    import torch

    values = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    a, product = jnp.asarray(values, dtype), jax.jit(jnp.matmul)
    b = torch.tensor(values, dtype=getattr(torch, dtype), device="cuda" if on_gpu() else "cpu")
    return {
        ("ours", "product"): lambda: product(a, a).block_until_ready(),
        ("eager", "product"): lambda: torch_waits(lambda: b @ b),
    }


def measure(
    parts: Timed, rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[tuple[str, str], list[float]]:
    """Seconds a call of each part, in each round."""
    calls = {}
    for name, part in parts.items():
        part(), part()  # compiles
        start = clock()
        part()
        calls[name] = max(1, round(seconds / (clock() - start)))
    found: dict[tuple[str, str], list[float]] = {name: [] for name in parts}
    order = sorted(parts, key=lambda name: name[1])  # the same part of both sides after each other
    for number in range(rounds):
        for name in order if number % 2 else order[::-1]:
            start = clock()
            for _ in range(calls[name]):
                parts[name]()
            found[name].append((clock() - start) / calls[name])
    return found


def describe(arguments: argparse.Namespace, seconds: dict, program: Any, batch: Any) -> dict[str, Any]:
    """What is written: milliseconds, crops a second, ratios with quartiles, FLOP/s against the ceiling."""
    import jax
    import torch

    crops = batch.image.shape[0]
    flops = network_flops(program, batch)
    ceiling = 2 * ceiling_side() ** 3 / min(np.median(seconds[side, "product"]) for side in ("ours", "eager"))
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "commit": commit(),
        "note": arguments.note,
        "machine": f"{processor()}, {arguments.threads} of {os.cpu_count()} cores",
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "versions": {"jax": jax.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "network": {**dataclasses.asdict(program.model.settings), "crop": program.augment.crop, "crops": crops},
        "gflop_per_step": round(flops / 1e9, 2),
        "ceiling_gflops": round(ceiling / 1e9, 1),
        "time": "of the processor" if arguments.threads == 1 else "by the clock",
        "load": os.getloadavg()[0],
    }
    for side in ("ours", "compiled", "eager"):
        times = {part: float(np.median(values)) for (s, part), values in seconds.items() if s == side}
        times["backward"] = times["gradient"] - times["forward"]
        result[side] = {
            "crops_per_second": round(crops / times["step"], 1),
            "share_of_ceiling": round(flops / times["step"] / ceiling, 3),
            "milliseconds": {part: round(1000 * value, 2) for part, value in times.items() if part != "product"},
        }
    # Of our speed to that of torch in the form that trains faster: above 1 we are faster.
    best = min(("compiled", "eager"), key=lambda side: np.median(seconds[side, "step"]))
    result["ratio"] = {"to": best}
    for part in PARTS:
        ratios = np.array(seconds[best, part]) / np.array(seconds["ours", part])
        median, low, high = np.percentile(ratios, (50, 25, 75))
        result["ratio"][part] = {"median": round(median, 3), "quartiles": [round(low, 3), round(high, 3)]}
    evolution = np.median(seconds["ours", "evolution"])
    result["evolution_share"] = round(float(evolution / (evolution + np.median(seconds["ours", "step"]))), 3)
    return result


def network_flops(program: Any, batch: Any) -> float:
    """Multiplications and additions of the network's products in a step: forward, and twice that for the gradients."""
    import jax

    params = jax.eval_shape(lambda: program.model.init(jax.random.key(0), batch.image, batch.inside))
    total, pixels = 0.0, np.prod(batch.image.shape[:3])
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        name = path[1].key
        if path[-1].key == "kernel":
            level = next((int(letter) for letter in name if letter.isdigit()), 0)  # the last layers have none
            level += name.startswith("up")  # mixed before it is repeated
            needs = 2 if name == "encoder0" and "0" in path[2].key else 3  # nobody asks for the image's gradient
            total += needs * 2 * np.prod(x.shape) * pixels / 4**level
    return float(total)


def in_a_process_of_its_own(side: str) -> dict[str, float]:
    """`start` in a new process with empty caches of compiled programs."""
    with tempfile.TemporaryDirectory() as empty:
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": empty, "JAX_ENABLE_COMPILATION_CACHE": "false"}
        command = [sys.executable, *sys.argv, "--first", side]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{side}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def start(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds that the first step takes more than the third, and the process's largest memory beyond its data."""
    import jax

    # Torch has its images once.
    run, state, step = prepared(arguments, "multitask", shards=0 if arguments.first == "ours" else 1)
    key = jax.random.key(0)
    if arguments.first == "compiled":
        import torch
        import torch_unet

        torch.set_num_threads(arguments.threads)
        device = "cuda" if on_gpu() else "cpu"
        trainer = torch_unet.Trainer(run.program, state.data, jax.tree.map(np.asarray, state.params), device)

        def once() -> Any:
            return torch_waits(trainer.step)
    else:
        held = [state]

        def once() -> Any:
            held[0], metrics = step(held[0], key)
            return jax.block_until_ready(metrics)

    before = largest_memory(arguments.first)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        once()
        times.append(time.perf_counter() - began)
    taken = largest_memory(arguments.first) - before
    return {"compile_seconds": round(times[0] - min(times), 1), "peak_memory_mib": round(taken / 2**20)}


def largest_memory(side: str) -> int:
    """Bytes that this side has had on the GPU so far; without a GPU, the process."""
    import jax

    if not on_gpu():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if side == "ours":
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    import torch

    return torch.cuda.max_memory_allocated()


def processor() -> str:
    """Its name, where the system tells it."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit, with a + where files differ from it."""
    said = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip()


if __name__ == "__main__":
    main()
