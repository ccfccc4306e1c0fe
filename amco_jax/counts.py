"""How many tasks come: Poisson counts drawn from 32 random bits, and the two rates of bursty arrivals."""

from __future__ import annotations

import numpy as np
from scipy.special import pdtrc

DRAWS = 2.0**32
"""Values of a draw"""


def positions_for(rate: float) -> int:
    """The least M ≥ 1 with P(K > M) < 2⁻³² for K ~ Poisson(rate): no draw gives a larger count."""
    low, high = 1, 2
    while pdtrc(high, rate) * DRAWS >= 1:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if pdtrc(middle, rate) * DRAWS >= 1 else (low, middle)
    return low


def thresholds(rate: float, num_positions: int) -> np.ndarray:
    """`[num_positions]` of `uint32`: K > n where a draw of 32 bits is larger than entry n.

    So the draw is inverted through the distribution function: P(K > n) is that of Poisson(rate) rounded down
    to a multiple of 2⁻³², and a larger rate never makes a count smaller.
    """
    above = np.floor(pdtrc(np.arange(num_positions), rate) * DRAWS)
    return np.maximum(DRAWS - 1 - above, 0).astype(np.uint32)


def burst_share(burst_slots: float, calm_slots: float) -> float:
    """π, the share of slots in a burst, from the mean durations of bursts and of what lies between."""
    return burst_slots / (burst_slots + calm_slots)


def burst_rates(mean: float, intensity: float, share: float) -> tuple[float, float]:
    """(λ₀, λ₁) in calm and in burst: λ₁ = κ·λ₀ and (1 − π)·λ₀ + π·λ₁ = mean."""
    calm = mean / (1 - share + share * intensity)
    return calm, intensity * calm
