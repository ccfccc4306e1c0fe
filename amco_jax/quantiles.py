"""Quantiles of the makespans of episodes."""

from __future__ import annotations

import numpy as np

LEVELS = np.array([
    0, 1, 2, 5, 10, 15, 20, 30, 40, 50, 75, 100, 150, 200, 250, 300, 350, 400, 450, 500,
    550, 600, 650, 700, 750, 800, 850, 900, 925, 950, 960, 970, 980, 985, 990, 995, 998, 999, 1000,
]) / 1000  # fmt: skip
"""`[K]`, the levels of the quantiles that are told of each episode; 0 and 1 are its least and largest"""
