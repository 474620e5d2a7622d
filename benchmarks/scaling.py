"""What a run costs as images and accelerators grow: benchmarks/SCALING.md, from what the compiled program says.

  python benchmarks/scaling.py               measure (compiles, runs nothing), write results/scaling.json and the tables
  python benchmarks/scaling.py --tables      write the tables of the results that are there

Measured are the work, traffic and bytes of the compiled step on fake devices; speeds of hardware are published ones.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "scaling.json"
PAGE = ROOT / "benchmarks" / "SCALING.md"
COMMAND = "python benchmarks/scaling.py"
DEVICES = (1, 8, 64)
SIDE, HERE = 512, 8  # pixels; images a device holds in the compiled program, one of them outlined
SETTINGS = {
    "model": {"width": 32, "depth": 4, "dtype": "bfloat16"},
    "augment": {"crop": 256},
    "train": {"strong_crops": 4, "weak_crops": 4},  # a device
    "evolution": {"images_per_step": 4},
}
TURNS, FEWEST = 12, 700  # of an image in the whole training; steps of the shortest one: as in the default experiment

# Published for the H100 SXM (80 GB) and the DGX H100, by NVIDIA's data sheets; none of them was measured here.
MATRIX = 989e12  # FLOP/s, bf16 without sparsity
USE = 0.35  # of it: an assumption, the aim that the project has set itself
MEMORY, MEMORY_SPEED = 80e9, 3.35e12  # bytes, bytes/s
NVLINK = 450e9  # bytes/s each way, within the 8 GPUs of a node
INFINIBAND = 50e9  # bytes/s a GPU: eight ports of 400 Gbit/s a node
HOST = 64e9  # bytes/s each way, PCIe 5.0 x16
LATENCY = 10e-6  # seconds for each doubling of the devices: an assumption
HOST_MEMORY = 2e12  # bytes a node
DISK = 2e9  # bytes/s a node: an assumption
SHARE = 0.8  # of the memory that the set may fill; the rest is for the step
HOST_SHARE = 0.75  # of the host's, beyond which images lie in files, as in rams_jax/memory.py


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--compile", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        print(json.dumps(compiled(arguments.compile)))
        return
    if not arguments.tables:
        found = [measure(devices) for devices in DEVICES]
        git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        about = {"command": COMMAND, "commit": commit, "device": "fake devices of a CPU, nothing was run"}
        RESULTS.write_text(json.dumps(about | {"settings": SETTINGS, "compiled": found}, indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))


def measure(devices: int) -> dict[str, Any]:
    """`compiled` in a process of its own that has so many fake devices."""
    # The second flag spares half the time to compile; what is counted is the program before it.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, f"--compile={devices}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compiled(devices: int) -> dict[str, Any]:
    """Work of one device in a step, what devices exchange, and bytes of the state, from the compiled program."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding

    from rams_jax import config as settings
    from rams_jax import experiment, loading, sharding
    from rams_jax.model import multiple
    from rams_jax.train_step import init_state
    from rams_jax.types import Example

    config = settings.default()
    for section, values in SETTINGS.items():
        config[section].update(values)
    program = experiment.program(config, (0.0,), (1.0,), 1)
    empty = np.zeros((SIDE, SIDE), np.int32)
    marked = empty.copy()
    marked[:9, :9] = 1
    tasks = np.zeros((*empty.shape, program.model.auxiliary), np.int8)
    image = np.zeros((*empty.shape, 1), np.float32)
    example = Example("blank", image, marked, marked, empty == 0, np.array([0, 1], np.int32), tasks)
    rule = program.rule
    data, _ = loading.load([example] * HERE, [0], 1, 1, multiple(program.model.settings), rule.unmarked, rule.memory)
    per_image = {name: x.nbytes // HERE for name, x in _images(data).items()}

    mesh = sharding.make_mesh(devices)
    state = jax.eval_shape(lambda: init_state(jax.random.key(0), program, data))

    def everywhere(x: jax.ShapeDtypeStruct, spec: Any) -> jax.ShapeDtypeStruct:
        shape = (x.shape[0] * devices, *x.shape[1:]) if len(spec) else x.shape
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    partition = sharding.state_specs(state)
    state = jax.tree.map(everywhere, state, partition)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=state.step.sharding)
    step = sharding.compile_step(program, state, mesh, devices).lower(state, key).compile()
    cost, memory = step.cost_analysis(), step.memory_analysis()
    sums = re.findall(r"= (\(.*?\)|\S+) all-reduce(?:-start)?\(", step.as_text())
    return {
        "devices": devices,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "arguments_bytes": memory.argument_size_in_bytes,
        "all_reduces": len(sums),
        "all_reduce_bytes": sum(map(_bytes, sums)),
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
        "image_bytes": per_image,
    }


def _images(data: Any) -> dict[str, Any]:
    """The arrays of a dataset that have a row an image, by name."""
    found = {f.name: getattr(data, f.name) for f in dataclasses.fields(data) if f.name != "masks"}
    found |= {f"masks.{f.name}": getattr(data.masks, f.name) for f in dataclasses.fields(data.masks)}
    return {name: x for name, x in found.items() if x is not None and x.shape[:1] == (HERE,)}


def _bytes(shape: str) -> int:
    """Of an array or a tuple of arrays in the words of XLA, such as `(f32[3,8]{1,0}, f32[])`; of 4 a number."""
    arrays = re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape)
    assert {kind for kind, _ in arrays} <= {"f32", "s32"}, shape
    return 4 * sum(math.prod(int(n) for n in sizes.split(",") if n) for _, sizes in arrays)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a run, in seconds and bytes; all but `checkpoint` and `results` a device."""

    steps: int
    compute: float  # seconds a step
    traffic: float  # seconds a step, of the sum over devices
    held: float  # bytes of the set
    rotation: float  # seconds a step, of the images that come and go where the set does not fit
    reading: float  # seconds, once
    saving: float  # seconds a checkpoint
    checkpoint: float  # bytes

    @property
    def step(self) -> float:
        """Seconds; the window moves between two steps."""
        return self.compute + self.traffic + self.rotation

    @property
    def largest(self) -> str:
        """Which term takes longest in the whole training."""
        terms = {"compute": self.compute, "network": self.traffic, "rotation": self.rotation}
        terms |= {"reading": self.reading / self.steps}
        return max(terms, key=lambda name: terms[name])


def cost(images: int, devices: int, found: dict[str, Any]) -> Cost:
    """By the model that the page explains."""
    turns = SETTINGS["evolution"]["images_per_step"]
    image = sum(found["image_bytes"].values())
    held = image * math.ceil(images / devices)
    nodes = math.ceil(devices / 8)
    speed = NVLINK if nodes == 1 else INFINIBAND
    ring = 2 * (devices - 1) / devices * found["all_reduce_bytes"] / speed
    changes = sum(n for name, n in found["image_bytes"].items() if name.startswith("masks."))
    checkpoint = images * changes + 4 * 4 * found["parameters"]
    in_files = image * images > HOST_SHARE * HOST_MEMORY * nodes
    return Cost(
        steps=max(FEWEST, math.ceil(TURNS * images / (turns * devices))),
        compute=max(found["flops"] / (MATRIX * USE), found["bytes_accessed"] / MEMORY_SPEED),
        traffic=ring + LATENCY * math.log2(devices) if devices > 1 else 0.0,
        held=held,
        rotation=travels(found) / (DISK / min(devices, 8) if in_files else HOST) if held > SHARE * MEMORY else 0.0,
        reading=images * SIDE**2 * 2 / (DISK * nodes),
        saving=checkpoint / (DISK * nodes),
        checkpoint=checkpoint,
    )


def travels(found: dict[str, Any]) -> float:
    """Bytes a step and device: an image stays for two turns, comes with its masks, and they go back."""
    image = found["image_bytes"]
    back = sum(n for name, n in image.items() if name.startswith("masks."))
    return SETTINGS["evolution"]["images_per_step"] / 2 * (sum(image.values()) + back)


def page(results: dict[str, Any]) -> str:
    """SCALING.md."""
    first, *others = results["compiled"]
    width, depth = SETTINGS["model"]["width"], SETTINGS["model"]["depth"]
    crop, strong = SETTINGS["augment"]["crop"], SETTINGS["train"]["strong_crops"]
    weak, turns = SETTINGS["train"]["weak_crops"], SETTINGS["evolution"]["images_per_step"]
    image = first["image_bytes"]
    total = sum(image.values())
    large = [name for name in sorted(image, key=lambda name: -image[name]) if image[name] > 0.02 * total]
    fits = int(SHARE * MEMORY / total)
    spread = max(abs(o[name] / first[name] - 1) for o in others for name in ("flops", "bytes_accessed"))
    limit = "FLOP" if first["flops"] / (MATRIX * USE) > first["bytes_accessed"] / MEMORY_SPEED else "memory speed"
    one, most, million = cost(10**3, 1, first), cost(10**5, 512, first), cost(10**6, 512, first)
    bus, disk = travels(first) / HOST, 8 * travels(first) / DISK
    shares = [(n, cost(10**5, n, first)) for n in (8, 64, 512)]
    told = ", ".join(f"{c.traffic / c.compute:.2%} on {n} GPUs" for n, c in shares)
    return f"""# What a run costs as it grows

On paper: no GPU was measured. Work, traffic and bytes are those of the compiled step; speeds are published ones.
Made by `{results["command"]}` (commit {results["commit"]}; {results["device"]}); the constants are at its head.

## Measured in the compiled program

A U-Net of width {width} and depth {depth} in bf16 ({first["parameters"]:,} parameters); {strong} + {weak} crops of
{crop} x {crop} pixels a step and device, and the masks of {turns} images of {SIDE} x {SIDE} take their turn.

| devices | FLOP a device and step | bytes accessed | sums a step | bytes summed |
|---|---|---|---|---|
{_work(results["compiled"])}

From 1 to {DEVICES[-1]} devices the work of one changes by {spread:.2%}. Loops of the recursion whose length depends on
the image count once, and a GPU's compiler fuses more, so that fewer bytes are accessed.

An image of {SIDE} x {SIDE} takes {total:,} bytes on its device: {", ".join(f"`{n}` {image[n]:,}" for n in large)}.
So {fits:,} fit into {SHARE:.0%} of {MEMORY / 1e9:.0f} GB.

## Assumed

H100 SXM and DGX H100, by NVIDIA's data sheets: {MATRIX / 1e12:.0f} TFLOP/s in bf16 without sparsity,
{MEMORY / 1e9:.0f} GB at {MEMORY_SPEED / 1e12} TB/s, NVLink {NVLINK / 1e9:.0f} GB/s each way,
eight ports of 400 Gbit/s a node ({INFINIBAND / 1e9:.0f} GB/s a GPU),
PCIe 5.0 {HOST / 1e9:.0f} GB/s, {HOST_MEMORY / 1e12:.0f} TB of memory a node.
Ours: {USE:.0%} of the matrix speed, {LATENCY * 1e6:.0f} us for each doubling of the devices,
{DISK / 1e9:.0f} GB/s of storage a node.

The time of a step is the larger of FLOP over speed and bytes over memory speed, plus a ring sum of 2 (n - 1) / n times
the bytes. Where the set does not fit, images come and go between two steps, and the computation waits: each stays for
two turns, so that {size(travels(first))} travel a step and GPU, from files where the set takes more than
{HOST_SHARE:.0%} of the node's memory. A training gives each image {TURNS} turns, as the default
experiment does, and so takes {TURNS} images / ({turns} devices) steps, but at least {FEWEST}.

## From 10^3 to 10^7 images

`!`: the set does not fit, and a window of it rotates (`train.window`), on each process one of its own images.
A checkpoint holds the masks of all images and four copies of the parameters, not compressed. Reading is of 16-bit
images, once.
The last column names the largest of computation, network, rotation and reading over the whole training.

| images | GPUs | steps | training | set a GPU | sum, step | rotation, step | reading | checkpoint | saving | largest |
|---|---|---|---|---|---|---|---|---|---|---|
{_costs(first)}

## Where each term begins to dominate

- **Compute**: {span(one.compute)} a step, by {limit}. Each image brings its own, so that it is the
  largest term of training as long as no images come from files. Below {FEWEST * turns // TURNS:,} images a device more
  devices bring nothing, for the network needs its steps.
- **Network**: the sum does not grow with the images. It takes, relative to the computation, {told}.
  On 512 GPUs it would be the largest term where a step computes for less than {span(most.traffic)}.
- **Memory**: from {fits:,} images a GPU on ({fits * 8:,} on 8, {fits * 64:,} on 64, {fits * 512:,} on 512)
  the set does not fit. Rotation adds {span(bus)} a step over PCIe,
  {bus / one.compute:.1%} of the computation. From {int(HOST_SHARE * HOST_MEMORY / total):,} images a node on they lie
  in files, and 8 GPUs that share one disk wait {span(disk)} a step for them, {disk / one.compute:.1f} times the
  computation.
- **Storage**: a checkpoint of 10^6 images has {size(million.checkpoint)}, nearly all of it `current`,
  `age` and `average`; one node writes it in {span(cost(10**6, 8, first).saving)}, 64 nodes in {span(million.saving)}.
  That is {million.saving / (million.steps * million.step):.0%} of the training there, for saving grows as
  training does. The maps compress well, which is not counted.
- **Several processes**: each decodes the images of its own devices, but all read the names of all images, and the first
  one scores validation and test images by itself.
"""


def _work(compiled: list[dict[str, Any]]) -> str:
    rows = []
    for c in compiled:
        values = (c["devices"], f"{c['flops']:.4g}", f"{c['bytes_accessed']:.4g}", c["all_reduces"])
        rows.append("| " + " | ".join(map(str, values)) + f" | {c['all_reduce_bytes']:,} |")
    return "\n".join(rows)


def _costs(found: dict[str, Any]) -> str:
    rows = []
    for images in (10**3, 10**4, 10**5, 10**6, 10**7):
        for devices in (1, 8, 64, 512):
            c = cost(images, devices, found)
            values = [f"10^{round(math.log10(images))}", str(devices), f"{c.steps:,}", span(c.steps * c.step)]
            values += [size(c.held) + (" !" if c.rotation else ""), span(c.traffic), span(c.rotation)]
            values += [span(c.reading), size(c.checkpoint), span(c.saving), c.largest]
            rows.append(f"| {' | '.join(values)} |")
    return "\n".join(rows)


def span(seconds: float) -> str:
    """A time with a unit."""
    if seconds == 0:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def size(count: float) -> str:
    """Bytes with a unit."""
    for unit, length in (("TB", 1e12), ("GB", 1e9)):
        if count >= length:
            return f"{count / length:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"


if __name__ == "__main__":
    main()
