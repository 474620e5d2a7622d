"""Air bubbles and ice crystals in SIMULATED electron microscopy, from one outlined image and marks on the other 60.

Two classes of objects, touching and occluding, in a matrix; rams_jax/datasets/food_sem.py simulates the images and says
how. Nothing is downloaded. The auxiliary tasks are separation, from strokes drawn on some of the places where two
objects touch, and interior, from the marks.

Command:   python launch/main.py --config=configs/food_sem.py
In short:  the same with configs/food_sem.py:smoke: a trial of a minute or two, and the scores mean little.
Hardware:  2 CPU cores and 4 GiB of memory; takes a GPU or TPU where jax finds one.
Time:      meant for 10 minutes on 2 cores; what it took on one is in the cells below.
Score:     in benchmarks/results/food_sem.
"""

from ml_collections import ConfigDict

from rams_jax import config as settings


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the experiment; `arg` is what follows the colon: nothing, or `smoke`."""
    if arg not in ("", "smoke"):
        raise settings.ConfigError(f"configs/food_sem.py has no variant {arg!r}; it has 'smoke', or none.")
    config = settings.default()
    config.data.name = "food_sem"
    config.data.class_names = ("bubble", "ice")
    config.model.depth = 4  # objects are up to 45 pixels wide
    config.augment.crop = 64
    config.train.steps = 1000
    config.evolution.images_per_step = 2
    config.evolution.reach = 4
    if arg == "smoke":
        settings.shorten(config)
    config.lock()
    return config
