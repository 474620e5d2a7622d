"""A short run of eight logical shards, for test_devices: on fake devices of one process, or of several.

  python tests/sharded.py OUT 1,2,4            on that many devices, one after the other
  python tests/sharded.py OUT 8 PORT N I       as process I of N, on 8 devices in all

Writes OUT/DEVICES.npz, what the run ended with, and OUT/DEVICES.txt, the compiled program, for the last number also
OUT/DEVICES-in-one-call.npz and .txt, of a call that makes all steps; of the annotated folder
OUT/folder OUT/dataN.npz, the state that its images make, and OUT/decodedN-I, how many of them process I of N decoded;
and OUT/brokenN-I, what process I of N says of the folder OUT/broken.
"""

import os
import pathlib
import sys

SHARDS, STEPS = 8, 6


def run(devices, out, stride=1):
    import jax
    import numpy as np
    import synthetic

    from rams_jax import processes

    # One strong image, which every shard gets, and fifteen weak ones: the last shard has an empty slot.
    examples = [synthetic.example(i, marked=3 if i == 5 else 6, auxiliary=1) for i in range(16)]
    _, first, mesh, step = synthetic.experiment(examples, shards=SHARDS, devices=devices, steps=STEPS, weak_crops=1)
    state = synthetic.placed(first, mesh)
    key = jax.jit(lambda: jax.random.key(3), out_shardings=state.step.sharding)()
    compiled = step.lower(state, key, stride).compile()
    metrics = []
    with jax.transfer_guard("disallow_explicit"):  # nothing comes from the host, nor goes there
        for _ in range(STEPS // stride):
            state, row = compiled(state, key)
            metrics.append(row)
        jax.block_until_ready(state)
    assert len(state.data.image.sharding.device_set) == devices
    assert state.params["params"]["segmentation_logits"]["kernel"].sharding.is_fully_replicated
    ended = processes.whole({"state": state, "metrics": metrics})
    if processes.first():
        leaves = jax.tree_util.tree_leaves_with_path(ended)
        name = str(devices) if stride == 1 else f"{devices}-in-one-call"
        np.savez(out / f"{name}.npz", **{jax.tree_util.keystr(path): x for path, x in leaves})
        (out / f"{name}.txt").write_text(compiled.as_text())


def load(out):
    import jax
    import numpy as np
    import synthetic

    from rams_jax import annotations, experiment, processes

    config = synthetic.small_config(out / "broken")
    config.train.shards = config.train.strong_crops = config.train.weak_crops = SHARDS
    count, process = jax.process_count(), jax.process_index()
    try:
        experiment.prepare(config)
    except annotations.AnnotationError as error:
        (out / f"broken{count}-{process}").write_text(str(error))
    config.data.source = str(out / "folder")
    prepared, state, _ = experiment.prepare(config)
    settings = prepared.program.model.settings
    leaves = jax.tree_util.tree_leaves_with_path(processes.whole(state.data))
    named = {jax.tree_util.keystr(path): x for path, x in leaves} | {"mean": settings.mean, "std": settings.std}
    if processes.first():
        np.savez(out / f"data{count}.npz", **named)
    (out / f"decoded{count}-{process}").write_text(str(prepared.splits.train.decoded))


def main(out, numbers, port="", processes="1", process="0"):
    numbers = [int(number) for number in numbers.split(",")]
    here = max(numbers) // int(processes)
    # The second flag halves the time to compile and changes no sum.
    flags = ("xla_force_host_platform_device_count", here), ("xla_backend_optimization_level", 0)
    os.environ["XLA_FLAGS"] = " ".join(f"--{name}={value}" for name, value in flags)
    if port:
        import rams_jax.processes

        rams_jax.processes._LOST_AFTER = 600  # on a busy machine a process may be silent for long
        rams_jax.processes.join(f"127.0.0.1:{port}", int(processes), int(process))
    load(pathlib.Path(out))
    for devices in numbers:
        run(devices, pathlib.Path(out))
    run(numbers[-1], pathlib.Path(out), STEPS)


if __name__ == "__main__":
    main(*sys.argv[1:])
