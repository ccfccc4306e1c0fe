"""Which requests of an episode a failure can have touched."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd


class Trouble(NamedTuple):
    """A period that no prediction accounts for, s: a worker is missing, or the run is interrupted."""

    began: float
    ended: float
    """Infinite if it lasts until the end of the episode"""


def disturbed(requests: pd.DataFrame, troubles: Iterable[Trouble], planned: float = 0.0) -> np.ndarray:
    """`[requests]`, whether a trouble can have changed the time of a request, or what it is compared with.

    A trouble concerns the requests that are under way when it begins. It also concerns those that arrive
    afterwards, for as long as queues may differ from what they would be without it: until it is over, and
    neither the fleet nor a simulation has anything to do.

    Args:
      requests: those of one episode, with columns `arrival_s`, `measured_s` and `simulated_s`, and
        `simulated_published_s`.
      planned: s for which the method plans at once, from the backlog at the beginning; 0 if it decides each
        request when it arrives.
    """
    arrived, measured, *simulated = (
        np.nan_to_num(np.asarray(requests[name], float))
        for name in ("arrival_s", "measured_s", "simulated_s", "simulated_published_s")
    )
    back = arrived + measured
    done = arrived + np.maximum.reduce([measured, *simulated])
    spans = [(began, ended, number) for number, (began, ended) in enumerate(zip(arrived, done, strict=True))]
    spans += [(*trouble, -1) for trouble in troubles]
    # Spans that overlap form a busy period, which a trouble touches from its beginning on.
    touched, period, busy = [np.inf], np.zeros(len(requests), int), -np.inf
    for began, ended, number in sorted(spans):
        if began > busy:
            touched.append(np.inf)
        if planned and ended < np.inf:  # the plan that this has gone into ends with it
            ended = math.ceil(ended / planned) * planned
        busy = max(busy, ended)
        if number < 0:
            touched[-1] = min(touched[-1], began)
        else:
            period[number] = len(touched) - 1
    return back >= np.array(touched)[period]
