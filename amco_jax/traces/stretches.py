"""A log cut in two by time: an earlier stretch for training, and later, disjoint stretches for testing.

The cut is at a time of the log, independent of the slot duration: agents may be tested at another time scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

MAX_STRETCHES = 2**16
"""The most test stretches; the product of two numbers of stretches then fits into 32 bits"""

_GOLDEN = (math.sqrt(5) - 1) / 2


class Stretches(NamedTuple):
    """The positions of a scenario's episodes on a log, in slots from its start."""

    training: int
    """Number of slots in the training part, which starts with slot 0"""
    first: int
    """The first slot for testing"""
    num_stretches: int
    """Number of disjoint test stretches of one episode each; 0 if the log is too short"""
    spacing: int
    """Slots from the start of one test stretch to the start of the next"""
    stride: int
    """Step in test stretches from one seed to the next; see `stretch_stride`"""

    def starts(self, num_slots: int) -> int:
        """Number of slots in which a training episode may start.

        The slot after its end, which the last learning step uses, is in the training part too.
        """
        return max(self.training - num_slots, 0)


def in_slots(seconds: ArrayLike, slot: float, error: float = 0.0) -> np.ndarray:
    """Times in slots; a time that is at the start of a slot but for rounding errors is exactly there.

    Args:
      seconds: times of any shape, s.
      slot: duration of a slot, s.
      error: the largest rounding error of the times, s.
    """
    ratio = np.asarray(seconds, np.float64) / slot
    near = np.round(ratio)
    return np.where(np.abs(ratio - near) <= error / slot + 2 * np.spacing(ratio), near, ratio)


def cut(
    span: float, slot: float, num_slots: int, train_share: float, gap: float | None, error: float = 0.0
) -> Stretches:
    """The stretches of a log.

    Args:
      span: time from the first request to the last, s.
      slot: duration of a slot, s of the log.
      num_slots: slots of an episode.
      train_share: share of the span for training.
      gap: minimum time between training and testing, s; one episode if None.
      error: see `in_slots`.
    """
    pause = 0.0 if train_share == 0 else num_slots * slot if gap is None else gap
    end = train_share * span
    last, training, first = in_slots([span, end, end + pause], slot, error).tolist()
    first = math.ceil(first)
    rest = max(math.floor(last) + 1 - first, 0)
    count = min(rest // num_slots, MAX_STRETCHES)
    return Stretches(math.floor(training), first, count, rest // max(count, 1), stretch_stride(count))


def longest_slot(
    span: float, num_slots: int, train_share: float, gap: float | None, num_stretches: int = 1
) -> float:
    """The longest slot, s of the log, with which a training episode and `num_stretches` test episodes fit."""
    if train_share == 0:
        return span / (num_stretches * num_slots + 1)
    pauses, pause = (num_slots, 0.0) if gap is None else (0, gap)
    testing = ((1 - train_share) * span - pause) / (num_stretches * num_slots + 1 + pauses)
    return max(min(testing, train_share * span / (num_slots + 1)), 0.0)


def stretch_stride(count: int) -> int:
    """The number coprime to `count` that is closest to its golden section.

    Successive seeds that step through the stretches by this stride visit every stretch once before they
    visit any twice, are spread evenly over the log however few they are, and are at nearly the same share of
    the log for any other count.
    """
    middle = round(count * _GOLDEN)
    near = (middle + sign * distance for distance in range(count + 1) for sign in (1, -1))
    return next((stride for stride in near if stride > 0 and math.gcd(stride, count) == 1), 1)
