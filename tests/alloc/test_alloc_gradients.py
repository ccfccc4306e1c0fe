"""Gradients of the allocators in wait and cost: right, and finite also where a fraction is clipped."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import numpy as np
import pytest

from amco_jax.alloc import ALLOCATORS, Allocator

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]

every_allocator = pytest.mark.parametrize("allocate", ALLOCATORS.values(), ids=ALLOCATORS)

GRADIENT_CASES: dict[str, Problem] = {
    "all": (np.array([0.1, 0.2, 0.15, 0.12]), np.array([0.2, 0.3, 0.4, 0.5]), np.array([1, 1, 1, 1], bool)),
    "clipped": (np.array([0.1, 0.2, 3.0, 0.5]), np.array([0.2, 0.3, 0.4, 0.1]), np.array([1, 1, 1, 1], bool)),
    "masked": (np.array([0.1, 0.2, 0.0, 0.12]), np.array([0.2, 0.3, 0.4, 0.5]), np.array([1, 1, 0, 1], bool)),
    "single": (np.array([0.1, 0.2, 0.0, 0.12]), np.array([0.2, 0.3, 0.4, 0.5]), np.array([0, 1, 0, 0], bool)),
    "many": (np.linspace(0, 0.5, 12), np.linspace(0.2, 0.6, 12), np.arange(12) % 5 > 0),
    "empty": (np.array([0.1, 0.2, 0.0, 0.12]), np.array([0.2, 0.3, 0.4, 0.5]), np.zeros(4, bool)),
}


@functools.cache
def compiled_jacobians(allocate: Allocator) -> Callable:
    return jax.jit(lambda *problem: [jac(allocate, (0, 1))(*problem) for jac in (jax.jacfwd, jax.jacrev)])


def split(allocate: Allocator, *problem: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.jit(allocate)(*problem))


@every_allocator
@pytest.mark.parametrize("case", GRADIENT_CASES)
def test_gradients_match_finite_differences(allocate: Allocator, case: str):
    problem, step = GRADIENT_CASES[case], 1e-6
    with jax.enable_x64(True):
        forward, backward = compiled_jacobians(allocate)(*problem)
    for argument, jacobian in enumerate(forward):
        np.testing.assert_allclose(backward[argument], jacobian, atol=1e-12)
        for i in range(problem[0].size):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in problem]
                moved[argument][i] += sign * step
                ends.append(split(allocate, *moved))
            slope = (ends[0] - ends[1]) / (2 * step)
            np.testing.assert_allclose(jacobian[:, i], slope, rtol=1e-5, atol=1e-7)


@every_allocator
def test_gradients_are_finite_at_ties_and_kinks(allocate: Allocator):
    tied = np.full(4, 0.5), np.full(4, 0.25), np.ones(4, bool)
    # The third server's wait is exactly the level of the first two.
    kink = np.array([0.0, 0.0, 0.5, 9.0]), np.array([1.0, 1.0, 1.0, 1.0]), np.ones(4, bool)
    far = np.array([0.0, 1e6, 1e6, 0.0]), np.array([1e-6, 1.0, 1e-6, 1.0]), np.array([1, 1, 0, 1], bool)
    for problem in (tied, kink, far, *GRADIENT_CASES.values()):
        wait, cost, selected = problem
        single = wait.astype(np.float32), cost.astype(np.float32), selected
        for jacobian in jax.tree.leaves(compiled_jacobians(allocate)(*single)):
            assert np.isfinite(jacobian).all()
