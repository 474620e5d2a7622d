"""The ways to fail that a trial showed: masks that stall, or run over the boundary."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from evolution_cases import SETTINGS, fast
from evolution_reference import Case
from scipy import ndimage

from rams_jax import evolution
from rams_jax.types import BINS


def discs(seed, chance, blur, radius=9, side=72):
    """Nine discs; p is the blurred truth, q is `chance` of it, less near the edges; marks cover about a fifth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    truth, marks = np.zeros((side, side), int), np.zeros((side, side), int)
    for j in range(9):
        cy, cx = 12 + 24 * (j // 3) + rng.uniform(-2, 2), 12 + 24 * (j % 3) + rng.uniform(-2, 2)
        distance = np.hypot(y - cy, x - cx)
        truth[distance < radius + rng.uniform(-1, 1)] = j + 1
        off = rng.uniform(-1.5, 1.5, 2)
        marks[np.hypot(y - cy - off[0], x - cx - off[1]) < 0.45 * radius] = j + 1
    object_ = (truth > 0).astype(float)
    soft = ndimage.gaussian_filter(object_, blur)
    depth = np.clip(ndimage.distance_transform_edt(object_) / radius, 0, 1)
    p = np.clip(soft + rng.normal(0, 0.02, soft.shape), 0.001, 0.999)
    q = np.clip(chance * ndimage.gaussian_filter(object_ * (0.4 + 0.6 * depth), 1.0), 0.001, 0.999)
    q = q * rng.uniform(0.9, 1.1, q.shape)
    case = Case(
        p=p[..., None],
        q=q[..., None],
        s=np.zeros((side, side, 0)),
        inside=np.ones((side, side), bool),
        full=np.zeros((side, side), int),
        partial=marks,
        current=marks,
        classes=np.array([0, *[1] * 9, 1]),
        tau=np.array([evolution.CLOSED]),
        rho=np.array([0.25]),
        kappa=np.array([0.0]),
        largest=np.array([np.bincount(truth.ravel())[1:].max()], float),
    )
    return case, truth


DEFAULTS = dataclasses.replace(
    SETTINGS,
    size_prior=1.0,
    reach=3,
    tau_min=0.1,
    stop_growth=0.02,
    max_area_factor=3.0,
    leak_factor=2.0,
    tau_auxiliary=0.5,
)


def run_schedule(cases, rho, kappas, settings):
    """Updates of all images with the threshold that their summed tallies ask for; the masks after each."""
    history = []
    tally = np.zeros((1, BINS + 3))
    for kappa in kappas:
        tau = evolution.coverage_threshold(
            jnp.asarray(tally, jnp.float32), jnp.array([kappa]), jnp.array([rho]), settings.tau_min
        )
        level = dict(tau=np.asarray(tau, float), kappa=np.array([kappa]), rho=np.array([rho]))
        cases = [dataclasses.replace(case, **level) for case in cases]
        update = fast(cases, settings)
        tally = update.tally.sum(0)
        cases = [dataclasses.replace(case, current=a) for case, a in zip(cases, update.current, strict=True)]
        history.append(update.current)
    return history


@pytest.mark.parametrize("monotone", [False, True])
@pytest.mark.parametrize("chance", [0.05, 0.3, 0.95])
def test_masks_follow_the_coverage_and_neither_stall_nor_overshoot(chance, monotone):
    settings = dataclasses.replace(DEFAULTS, monotone=monotone)
    cases, truths = zip(*(discs(seed, chance, blur=2.0) for seed in range(4)), strict=True)
    truth = np.stack(truths)
    area = (truth > 0).sum()
    rho = sum((case.partial > 0).sum() for case in cases) / area
    ramp = [*np.linspace(rho, 0.6, 8), *[0.6] * 4, *np.linspace(0.6, 1.0, 8), *[1.0] * 4, *[1.0] * 20]
    history = run_schedule(cases, rho, ramp, settings)
    # kappa = 0.6 is what the masks hold when the ramp has waited there; monotone ones cannot give back the surplus.
    assert abs((history[11] > 0).sum() / area - 0.6) < (0.06 if monotone else 0.03)
    for masks in (history[23], history[43]):  # at kappa = 1, and long after: no drift over the boundary
        hit = ((masks == truth) & (masks > 0)).sum()
        assert hit / (masks > 0).sum() > 0.95
        assert hit / area > 0.93
        assert abs((masks > 0).sum() / area - 1.0) < 0.04
    moved = [(a != b).sum() / area for a, b in zip(history[-6:-1], history[-5:], strict=True)]
    assert max(moved) < 0.005  # and they come to rest
    sizes = [(masks > 0).sum() / area for masks in history]
    assert max(sizes) < 1.04


def test_a_halo_of_the_segmentation_cannot_carry_masks_over_the_boundary():
    # p is sure of a rim 3 pixels wide that is background, as a segmentation is that learnt from overshooting masks:
    # it holds nearly as many pixels as the discs, but the regions may only have the area that rho tells.
    cases, truths = zip(*(discs(seed, 0.3, blur=1.0) for seed in range(4)), strict=True)
    truth = np.stack(truths)
    fooled = []
    for case, mine in zip(cases, truths, strict=True):
        rim = ndimage.binary_dilation(mine > 0, iterations=3) & (mine == 0)
        fooled.append(dataclasses.replace(case, p=np.where(rim, 0.97, case.p[..., 0])[..., None]))
    area = (truth > 0).sum()
    rho = sum((case.partial > 0).sum() for case in cases) / area
    kappas = [*np.linspace(rho, 1.0, 12), *[1.0] * 12]
    masks = run_schedule(fooled, rho, kappas, DEFAULTS)[-1]
    hit = ((masks == truth) & (masks > 0)).sum()
    assert (masks > 0).sum() / area < 1.04
    assert hit / (masks > 0).sum() > 0.9
    # The same opinion with one threshold and nothing else runs over the boundary: coverage and sizes hold masks back.
    free = [dataclasses.replace(case, tau=np.array([0.1])) for case in fooled]
    for _ in range(12):
        update = fast(free, dataclasses.replace(DEFAULTS, leak_factor=1e6, size_prior=0.0))
        free = [dataclasses.replace(case, current=a) for case, a in zip(free, update.current, strict=True)]
    assert (update.current > 0).sum() / area > 1.3


def test_a_wrong_rho_costs_its_own_error_and_no_more():
    cases, truths = zip(*(discs(seed, 0.3, blur=1.5) for seed in range(4)), strict=True)
    area = (np.stack(truths) > 0).sum()
    rho = 0.92 * sum((case.partial > 0).sum() for case in cases) / area  # objects are taken for 1 / 0.92 too large
    masks = run_schedule(cases, rho, [*np.linspace(rho, 1.0, 12), *[1.0] * 12], DEFAULTS)[-1]
    assert abs((masks > 0).sum() / area - 1 / 0.92) < 0.04
