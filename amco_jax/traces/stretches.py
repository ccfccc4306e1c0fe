"""A log cut in two by time: an earlier stretch to train on, and a later one to test on, in disjoint pieces.

The cut is a time of the log, the same whatever a slot is: agents may be tested under another time scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

MOST_STRETCHES = 2**16
"""Stretches for testing, at most: the product of two numbers of stretches then fits into 32 bits"""

_GOLDEN = (math.sqrt(5) - 1) / 2


class Stretches(NamedTuple):
    """Where the episodes of a scenario lie on a log, in slots from its beginning."""

    training: int
    """Slots of the training stretch, which begins with slot 0"""
    first: int
    """The first slot for testing"""
    num_stretches: int
    """Disjoint stretches of one episode each for testing; 0 where the log is too short"""
    spacing: int
    """Slots from the beginning of one to that of the next"""
    stride: int
    """Stretches from that of one seed to that of the next; see `stretch_stride`"""

    def starts(self, num_slots: int) -> int:
        """Slots that an episode of training may start with.

        The slot after its end, which the last step of learning looks at, lies in the training stretch too.
        """
        return max(self.training - num_slots, 0)


def cut(span: float, slot: float, num_slots: int, train_share: float, gap: float | None) -> Stretches:
    """The stretches of a log.

    Args:
      span: s, from the first request to the last.
      slot: s of the log in a slot.
      num_slots: of an episode.
      train_share: of the span.
      gap: s, least distance between the stretches; one episode where None is given.
    """
    pause = 0.0 if train_share == 0 else num_slots * slot if gap is None else gap
    end = train_share * span
    first = math.ceil((end + pause) / slot)
    rest = max(math.floor(span / slot) + 1 - first, 0)
    count = min(rest // num_slots, MOST_STRETCHES)
    return Stretches(math.floor(end / slot), first, count, rest // max(count, 1), stretch_stride(count))


def longest_slot(
    span: float, num_slots: int, train_share: float, gap: float | None, num_stretches: int = 1
) -> float:
    """s of the log in a slot, at most, so that an episode of training and so many of testing fit."""
    if train_share == 0:
        return span / (num_stretches * num_slots + 1)
    pauses, pause = (num_slots, 0.0) if gap is None else (0, gap)
    testing = ((1 - train_share) * span - pause) / (num_stretches * num_slots + 1 + pauses)
    return max(min(testing, train_share * span / (num_slots + 1)), 0.0)


def stretch_stride(count: int) -> int:
    """The number next to the golden section of `count` that has no divisor in common with it.

    Seeds that go through the stretches by this stride meet each of them once before they meet one twice, are
    spread evenly over the log however few they are, and lie at nearly the same share of it for another count.
    """
    middle = round(count * _GOLDEN)
    near = (middle + sign * distance for distance in range(count + 1) for sign in (1, -1))
    return next((stride for stride in near if stride > 0 and math.gcd(stride, count) == 1), 1)
