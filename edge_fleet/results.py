"""The results of a run, all of them from its journal: rows of requests and of images, and a summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from amco_jax.stats import mean_interval
from edge_fleet.columns import IMAGE_COLUMNS, PREDICTIONS, REQUEST_COLUMNS
from edge_fleet.decisions import Arrival, Simulated
from edge_fleet.pictures import Pictures
from edge_fleet.troubles import Trouble, disturbed
from sd_repair.quality import measure
from sd_repair.reading import load_image


class Committed:
    """What a journal holds of the results, and where each episode stopped."""

    def __init__(self, records: Iterable[Mapping[str, Any]]):
        """Read the records in order."""
        self.results: dict[tuple[int, int, int], Mapping[str, Any]] = {}
        self.decisions: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
        self.ended: dict[int, float] = {}
        self.losses: list[Mapping[str, Any]] = []
        self.troubles: dict[int, list[Trouble]] = {}
        """By episode, when workers were missing and when the run was interrupted"""
        self._absent: dict[int, tuple[int, int]] = {}
        self.repeated = 0
        for record in records:
            kind, episode = record["kind"], record.get("episode", -1)
            if kind == "start":
                self._start(episode, record["time"])
            elif kind == "decision":
                self.decisions.setdefault((episode, record["request"]), []).append(record)
                self._passed(episode, record["time"])
            elif kind == "result":
                key = episode, record["request"], record["image"]
                self.repeated += key in self.results
                self.results.setdefault(key, record)
                self._passed(episode, record["ended"])
            elif kind == "gone":
                self.results.pop((episode, record["request"], record["image"]), None)
            elif kind == "worker" and record["event"] == "down":
                self.losses.append(record)
                self._missing(episode, record["server"], record["since"])
            elif kind == "worker" and record["server"] in self._absent:
                of, number = self._absent.pop(record["server"])
                if of == episode:
                    self.troubles[of][number] = self.troubles[of][number]._replace(ended=record["time"])

    def images(self, episode: int, request: int) -> set[int]:
        """The images of a request that are committed."""
        return {image for e, r, image in self.results if (e, r) == (episode, request)}

    def rejected(self, episode: int, request: int) -> bool:
        """Whether the policy has rejected the request."""
        decisions = self.decisions.get((episode, request))
        return bool(decisions) and not any(decisions[0]["counts"])

    def _start(self, episode: int, time: float) -> None:
        if time > 0:  # after an interruption
            self.troubles.setdefault(episode, []).append(Trouble(time, time))
        for server in self._absent:
            self._missing(episode, server, time)

    def _missing(self, episode: int, server: int, since: float) -> None:
        """A worker is missing from a time on, until the end of the episode unless it comes back."""
        troubles = self.troubles.setdefault(episode, [])
        self._absent[server] = episode, len(troubles)
        troubles.append(Trouble(since, np.inf))

    def _passed(self, episode: int, time: float) -> None:
        self.ended[episode] = max(self.ended.get(episode, 0.0), time)


def requests_table(
    committed: Committed,
    arrivals: Mapping[int, list[Arrival]],
    simulated: Mapping[int, Simulated],
    published: Mapping[int, Simulated],
    deadline: float,
    planned: float = 0.0,
) -> pd.DataFrame:
    """A row for each request: when it came, who served it, and both predictions beside what was measured.

    Args:
      simulated: by episode, of the run's own physics.
      published: the same with links as in the published model.
      planned: s for which the method plans at once; 0 if it decides each request when it arrives.

    `measured_s` is NaN for a rejected request, and `disturbed` is true if a lost worker or an interruption
    can have touched it, which no prediction accounts for.
    """
    rows = []
    for episode, came in arrivals.items():
        own, other = simulated[episode], published[episode].finish
        for arrival, counts, alone, beside in zip(came, own.counts, own.finish, other, strict=True):
            key = episode, arrival.request
            decisions = committed.decisions.get(key, [])
            results = [r for (e, q, _), r in committed.results.items() if (e, q) == key]
            if not decisions:
                continue
            measured = max((r["ended"] for r in results), default=np.nan) - arrival.time
            served = sum(np.array(each["counts"]) for each in decisions)
            rows.append({
                "episode": episode, "request": arrival.request, "slot": arrival.slot,
                "station": arrival.station, "arrival_s": arrival.time, "size": arrival.size,
                "images": len(decisions[0]["images"]), "measured_s": measured,
                "simulated_s": float(alone), "predicted_s": decisions[0]["predicted"],
                "simulated_published_s": float(beside),
                "predicted_published_s": decisions[0]["predicted_published"],
                "missed": not measured <= deadline, "rejected": not results,
                "servers": np.flatnonzero(served).tolist(),
                "simulated_servers": np.flatnonzero(counts).tolist(),
                "attempts": len(decisions), "disturbed": False,
                "overruns": sum(r["overrun_s"] > 0 for r in results),
            })  # fmt: skip
    table = pd.DataFrame(rows, columns=REQUEST_COLUMNS)
    # A worker that comes back may still be at an item that it had before.
    longest = max((record["target_s"] for record in committed.results.values()), default=0.0)
    for episode, troubles in committed.troubles.items():
        where = table["episode"] == episode
        extended = [Trouble(began, ended + longest) for began, ended in troubles]
        table.loc[where, "disturbed"] = disturbed(table.loc[where], extended, planned)
    return table


def images_table(committed: Committed, pictures: Pictures, out: Path) -> pd.DataFrame:
    """A row for each image: its request, its worker, its times, and its quality over the hole."""
    rows, known = [], {}
    for (episode, request, image), record in sorted(committed.results.items()):
        picture = pictures.of(episode, request, image)
        repaired = load_image(out / record["file"]).pixels
        key = repaired.tobytes(), picture.mask.tobytes()
        if key not in known:
            known[key] = measure(picture.truth, repaired, picture.mask)
        kept = {name: value for name, value in record.items() if name not in ("kind", "there", "back")}
        for way in ("there", "back"):  # over the link; nothing from and to the server at the base station
            began, ended = record[way] or (np.nan, np.nan)
            kept |= {f"{way}_began": began, f"{way}_ended": ended}
        rows.append(kept | {"psnr_db": known[key].psnr, "ssim": known[key].ssim})
    return pd.DataFrame(rows, columns=IMAGE_COLUMNS)


def undisturbed(requests: pd.DataFrame) -> pd.DataFrame:
    """The requests that predictions are compared with: they were served, and no failure touched them."""
    return requests.loc[~requests["rejected"] & ~requests["disturbed"]]


def compared(counted: pd.DataFrame, prediction: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Measured and predicted times of each episode, without requests that have no prediction.

    These are the ones that the simulator rejects, for which it predicts 0. An episode of which nothing is
    left is missing.
    """
    some = counted.loc[counted[f"{prediction}_s"] > 0]
    parts = [one for _, one in some.groupby("episode")]
    return [(np.asarray(p["measured_s"], float), np.asarray(p[f"{prediction}_s"], float)) for p in parts]


def errors_by_episode(counted: pd.DataFrame, prediction: str, levels: Sequence[float]) -> np.ndarray:
    """Quantiles of the relative errors |measured / predicted - 1| of each episode, `[episodes, levels]`."""
    errors = [np.abs(measured / predicted - 1) for measured, predicted in compared(counted, prediction)]
    return np.array([np.quantile(each, levels) for each in errors]).reshape(-1, len(levels))


def times_in_words(counted: pd.DataFrame) -> str:
    """How long the requests took that the simulator serves too, as measured and as simulated."""
    if not (both := compared(counted, "simulated")):
        return "none was served undisturbed that the simulator serves too"
    measured, simulated = np.mean([[each.mean() for each in one] for one in both], axis=0)
    return (
        f"the {sum(len(one[0]) for one in both)} undisturbed ones that the simulator serves too took "
        f"{measured:.3g} s, {simulated:.3g} s as simulated (means over episodes)"
    )


def summary_table(requests: pd.DataFrame) -> pd.DataFrame:
    """How far the predictions are from what was measured, with 95 % intervals over the episodes.

    Requests of an episode wait for one another, so that only episodes count as independent; a single one
    gives no interval. Rejected and disturbed requests are left out, and so are those without a prediction.
    Errors are absolute, so the intervals of their means end at 0.
    """
    rows = []
    counted = undisturbed(requests)
    for name, words in PREDICTIONS.items():
        both = compared(counted, name)
        ratios = np.array([measured.mean() / predicted.mean() for measured, predicted in both])
        values = np.column_stack([ratios, errors_by_episode(counted, name, (0.5, 0.95))])
        for number, measure_name in enumerate(("mean_ratio", "median_error", "p95_error")):
            estimate = low = high = np.nan
            if len(values):
                estimate, low, high = mean_interval(values[:, number])
            rows.append({
                "prediction": words, "measure": measure_name, "estimate": float(estimate),
                "low": float(low if measure_name == "mean_ratio" else np.maximum(low, 0)),
                "high": float(high), "episodes": len(values),
                "requests": sum(len(measured) for measured, _ in both),
            })  # fmt: skip
    return pd.DataFrame(rows)
