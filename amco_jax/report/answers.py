"""The answer to the question that a study asks, as a paragraph that is generated from its numbers."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from amco_jax.agents.methods import REFERENCES
from amco_jax.metrics import Column, Shown, is_usual, shown_in
from amco_jax.report.analysis import (
    above_bound,
    baselines_of,
    change_in_training,
    comparable,
    estimates_of,
    pairs_of,
    winners_of,
)
from amco_jax.report.names import all_of, capitalised, counted, in_words, joined, trained_for
from amco_jax.report.rankings import reversal_of
from amco_jax.report.studies import LAST_EPISODES, SavedStudy
from amco_jax.report.tables import bracket, estimate_text, interval_text, small_unit
from amco_jax.stats import Interval
from amco_jax.stats.summaries import Pairs

_NO_TASKS = "There are no tasks, and so nothing to compare."
_MAX_NAMES = 3
"""The largest number of methods that a sentence names; it only counts the others"""


def question_of(study: SavedStudy) -> str:
    """The question that a study of this kind asks, without a capital letter at the start."""
    return _KINDS[study.kind].question


def summary_of(study: SavedStudy) -> str:
    """What a study consists of, as a sentence without a capital letter at the start."""
    manifest = study.manifest
    physics = manifest["physics"]
    physics = physics if isinstance(physics, str) else " and ".join(physics)
    seed = "tuning seed" if study.kind == "tune" else "seed"
    number, first = manifest["num_seeds"], manifest["first_seed"]
    size = f"{seed} {first} alone" if number == 1 else f"{counted(number, seed)} from {first} on"
    trained = trained_for(manifest["training"]) if study.kind == "sweep" else ""
    parts = _KINDS[study.kind].summary(study), size, f"{physics} physics", trained
    return f"{'; '.join(filter(None, parts))}."


def answer_of(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str] = ()) -> str:
    """The paragraph that answers the question of a study.

    Differences between methods are paired, on the episodes that both have, and come with 95 % intervals. If
    an interval contains 0, or if there is none, the methods are called not clearly different.

    Args:
      estimated: `analysis.means` of the study.
      baselines: see `analysis.baselines_of`.
    """
    rows = [row for of in estimates_of(estimated, study.first).values() for row in of.values()]
    if all(math.isnan(row["estimate"]) for row in rows):
        return _NO_TASKS
    sentences = _KINDS[study.kind].answer(study, estimated, baselines_of(study, baselines))
    sentences += [*_agreement(study, estimated), reversal_of(study)]
    if all(row["n_clusters"] < 2 for row in rows):
        unit = study.cluster_name
        sentences.append(
            f"With fewer than two {unit} there are no intervals, so that no difference is clear."
        )
    return " ".join(filter(None, sentences))


def _of_sweep(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    column, condition = study.first, study.example
    winners = winners_of(study, column, estimated)
    best = _best(study, condition, estimated, winners[condition], baselines[0])
    sentences = [f"{_at(study, condition)}, {best}."]
    sentences += _above_bound(study, column, condition, winners[condition])
    if len(winners) > 1:
        runs = [
            (names, [c for c, _ in run]) for names, run in itertools.groupby(winners.items(), lambda x: x[1])
        ]
        if len(runs) == 1 and (names := runs[0][0]):
            same = "method is" if len(names) == 1 else "methods are"
            sentences.append(f"The same {same} best at {all_of(len(winners), 'value')}.")
        elif any(names for names, _ in runs):
            where = [f"{_named(names) or 'none'} {_range(places)}" for names, places in runs]
            sentences.append(f"Best over the sweep: {'; '.join(where)}.")
    return sentences


def _above_bound(study: SavedStudy, column: Column, condition: Any, best: Sequence[str]) -> list[str]:
    """A sentence that compares the best method with the lower bound, if both exist."""
    found = above_bound(study, column).get(best[0], {}) if best else {}
    if condition not in found:
        return []
    share = _in_percent(bracket(*(100 * float(bound) for bound in found[condition]), digits=1))
    return [
        f"The {column.label} with {in_words(best[0])} is at most {share} above what any method could reach, "
        "as no method is below the lower bound."
    ]


def _of_method(
    method: str, where: str, study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]
) -> list[str]:
    """Sentences that compare one method with the baselines and the best methods under each condition."""
    column, sentences = study.first, []
    winners = winners_of(study, column, estimated)
    for condition, rows in estimates_of(estimated, column).items():
        if method not in rows:
            continue
        others = [m for m in dict.fromkeys([*baselines, *winners[condition]]) if m in rows and m != method]
        contrasts = [_contrast(study, column, condition, method, other) for other in others]
        at = f"{_at(study, condition)}, the" if study.axis_label else "The"
        text = f"{at} {column.label} with {in_words(method)} is {_value(column, rows[method])} {where}"
        sentences.append(f"{text}: {joined(contrasts)}." if contrasts else f"{text}.")
    return sentences


def _of_comparison(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    where = f"in the last {study.manifest['last']} of {_episodes(study)} of training"
    return _of_method(study.methods[0], where, study, estimated, baselines)


def _of_evaluation(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    return _of_method(study.methods[0], "in unseen episodes", study, estimated, baselines)


def _of_training(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    column, episodes = study.first, study.manifest["episodes"]
    (rows,) = estimates_of(estimated, column).values()
    ((method, row),) = rows.items()
    where = f"over the last {min(LAST_EPISODES, episodes)} of {_episodes(study)} of training"
    sentences = [f"The {column.label} with {in_words(method)} is {_value(column, row)} {where}."]
    if study.curves is not None and (fifth := episodes // 5):
        change = change_in_training(study.curves, column, slice(0, fifth), slice(episodes - fifth, episodes))
        how = _change(change) or "not clearly different from what it is"
        than = " than" if _change(change) else ""
        sentences.append(f"In the last fifth of the training it is {how}{than} in the first fifth.")
    return sentences


def _of_tuning(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    column, condition, reference = study.first, study.conditions[0], study.manifest["reference"]
    rows = {m: row for m, row in estimates_of(estimated, column)[condition].items() if m != reference}
    if not (order := _ranked(column, {m: row["estimate"] for m, row in rows.items()})):
        return [_NO_TASKS]
    best, others = order[0], order[1:]
    contrast = _contrast(study, column, condition, best, reference)
    sentences = [
        f"Of {len(rows)} combinations of settings, {best} has the {_extreme(column)} {column.label}, "
        f"{_value(column, rows[best])}: {contrast}, the reference."
    ]
    if others:
        unclear = [m for m in others if not _change(_paired(study, column, condition, m, best)[0])]
        which = f"{len(unclear)} of the {len(others)} others {'are' if len(unclear) > 1 else 'is'} not"
        if len(others) == 1:
            which = f"The other is{' not' * len(unclear)}"
        elif len(unclear) in (0, len(others)):
            which = f"{'None' if unclear else 'Each'} of the {len(others)} others is"
        sentences.append(f"{which} clearly different from it.")
        sentences.append(
            "As it was chosen on these tuning seeds, fresh seeds are needed to measure how good it is."
        )
    return sentences


def _of_sensitivity(study: SavedStudy, estimated: pd.DataFrame, baselines: Sequence[str]) -> list[str]:
    """The steepest derivatives of the first metric for each method, in each kind of parameter."""
    del baselines
    sentences = []
    for method in study.methods:
        falling, rising = [], []
        for columns in study.derivatives.values():
            rows = [
                (column, row)
                for column in columns
                if column.name.startswith(f"{study.first.name}_per_")
                for row in [estimates_of(estimated, column)[study.example][method]]
            ]
            least = min(rows, key=lambda found: found[1]["estimate"])
            most = max(rows, key=lambda found: found[1]["estimate"])
            if least[1]["ci_high"] < 0:
                falling.append(_steepness(*least))
            elif most[1]["ci_low"] > 0:
                rising.append(_steepness(*most))
        parts = [
            f"{how} most steeply in {joined(of)}" for how, of in (("falls", falling), ("rises", rising)) if of
        ]
        clearly = ", and ".join(parts) or "does not clearly change in any parameter"
        sentences.append(f"With {in_words(method)}, the {study.first.label} {clearly}.")
    return sentences


def _steepness(column: Column, row: dict[str, Any]) -> str:
    """The parameter of a derivative, and its estimate."""
    scale, unit = small_unit(column)
    numbers = (scale * row[name] for name in ("estimate", "ci_low", "ci_high"))
    return f"the {column.label.rpartition(' in the ')[2]} ({interval_text(*numbers)} {unit})"


class _Kind(NamedTuple):
    """What a report says of a kind of study."""

    question: str
    summary: Callable[[SavedStudy], str]
    """What such a study consists of, but for seeds and physics"""
    answer: Callable[[SavedStudy, pd.DataFrame, Sequence[str]], list[str]]
    """Sentences, from the study, its means and the baselines"""


def _episodes(study: SavedStudy, which: str = "") -> str:
    return counted(study.manifest["episodes"], f"{which}episode")


def _values(study: SavedStudy) -> str:
    return f"{study.axis_label}, {counted(len(study.conditions), 'value')}"


_KINDS = {
    "sweep": _Kind("which method is best, and where?", _values, _of_sweep),
    "compare": _Kind(
        "how do the methods compare at the end of training?",
        lambda study: f"{_episodes(study)} of training, means of the last {study.manifest['last']}",
        _of_comparison,
    ),
    "train": _Kind(
        "what has the method learned?",
        lambda study: f"{_episodes(study)} of training, means of the last ones",
        _of_training,
    ),
    "evaluate": _Kind(
        "how good are the trained agents in unseen episodes?",
        lambda study: f"trained agents on {_episodes(study, 'unseen ')}",
        _of_evaluation,
    ),
    "tune": _Kind(
        "which settings are best?",
        lambda study: f"settings of {study.manifest['method']}, each trained for {_episodes(study)}",
        _of_tuning,
    ),
    "sensitivity": _Kind(
        "which server or link shortens the makespan most?",
        lambda study: f"derivatives in {', '.join(study.derivatives)}",
        _of_sensitivity,
    ),
}


def _best(
    study: SavedStudy, condition: Any, estimated: pd.DataFrame, best: Sequence[str], baseline: str
) -> str:
    """A clause that names the best methods, if any, and compares them with the next best and a baseline."""
    column = study.first
    rows = estimates_of(estimated, column).get(condition, {})
    if not best:
        return _without_best(column, rows)
    text = f"the {column.label} is {_extreme(column)} with {_named(best)}, {_value(column, rows[best[0]])}"
    values = comparable(study, column, estimated).get(condition, {})
    others = {m: "the next best" for m in _ranked(column, values) if m not in best}
    asked = dict(itertools.islice(others.items(), 1))
    if baseline in others and baseline not in asked:
        asked[baseline] = "the baseline"
    contrasts = [f"{_contrast(study, column, condition, best[0], m)}, {what}" for m, what in asked.items()]
    return f"{text}: {joined(contrasts, ', and ')}"


def _without_best(column: Column, rows: Mapping[str, dict[str, Any]]) -> str:
    """A clause about methods of which none is best: the value of the only one, or that they are equal."""
    some = [method for method, row in rows.items() if not math.isnan(row["estimate"])]
    some = [method for method in some if method not in REFERENCES] or some
    if not some:
        return f"no method has a {column.label}"
    if len(some) == 1:
        return f"the {column.label} with {in_words(some[0])} is {_value(column, rows[some[0]])}"
    return f"no method has a better {column.label} than another"


def _agreement(study: SavedStudy, estimated: pd.DataFrame) -> list[str]:
    """Sentences that say whether the other metrics of the tables agree with the first on the best method.

    The usual metrics have a sentence each where they do not; several that were asked for share one.
    """
    first = winners_of(study, study.first, estimated)
    agreeing: list[str] = []
    texts: list[str] = []
    sentences: list[tuple[str, str]] = []
    asked: list[tuple[str, str]] = []
    for column in shown_in(study.columns, Shown.TABLES):
        others = winners_of(study, column, estimated)
        judged = [c for c in study.conditions if first[c] and others[c]]
        if column == study.first or not judged:
            continue
        different = [c for c in judged if not {*first[c]} & {*others[c]}]
        if not different:
            agreeing.append(column.label)
            continue
        named = [
            f"{_named(others[c])} {_range([c]) if len(study.conditions) > 1 else ''}".rstrip()
            for c in different[:_MAX_NAMES]
        ]
        more = f" (and others at {len(different) - _MAX_NAMES} more)" * (len(different) > _MAX_NAMES)
        sentence = f"By {column.label}, another method is best: {'; '.join(named)}{more}."
        (sentences if is_usual(column) else asked).append((column.label, sentence))
    if agreeing:
        labels = [study.first.label, *_shortened(agreeing)]
        texts.append(f"{capitalised(joined(labels))} agree on the best method.")
    texts += [sentence for _, sentence in sentences]
    if len(asked) > 1:
        where = " at some values" if len(study.conditions) > 1 else ""
        texts.append(
            f"By {joined(_shortened([label for label, _ in asked]))}, other methods are best{where}."
        )
    return texts + [sentence for _, sentence in asked if len(asked) == 1]


def _shortened(labels: Sequence[str]) -> list[str]:
    """The first few labels and the number of the others, if these are more than one."""
    more = len(labels) - _MAX_NAMES
    return [*labels[:_MAX_NAMES], f"{more} other measures"] if more > 1 else [*labels]


def _paired(
    study: SavedStudy, column: Column, condition: Any, method: str, other: str
) -> tuple[Interval, Interval] | tuple[None, None]:
    """The relative and absolute differences of the mean from the other's; None without common episodes."""
    pairs = pairs_of(study, method, other, [condition])
    if not pairs:
        return None, None
    paired = Pairs.of(column, [pairs[condition]], column.weightings[0])
    value, low, high = (float(bound[0]) for bound in paired.reduction())
    difference = Interval(*(np.asarray(bound[0]) for bound in paired.difference()))
    return Interval(np.asarray(-value), np.asarray(-high), np.asarray(-low)), difference


def _contrast(study: SavedStudy, column: Column, condition: Any, method: str, other: str) -> str:
    """A phrase that compares one method with another; it follows the value of the first and a colon."""
    named = in_words(other)
    relative, absolute = _paired(study, column, condition, method, other)
    if relative is None or absolute is None:
        return f"no episodes in common with {named}"
    if math.isnan(relative.low):  # as where the other's mean may be 0
        if clearly := _sign(absolute):
            return f"{_sized(absolute, 1, 4)} {column.unit} {clearly} than with {named}".replace("  ", " ")
    elif change := _change(relative):
        return f"{change} than with {named}"
    elif relative.low == relative.high == 0:
        return f"the same as with {named}"
    unclear = f"not clearly different from that with {named}"
    value, low, high = (100 * float(bound) for bound in relative)
    return unclear if math.isnan(value) else f"{unclear} ({_in_percent(bracket(value, low, high, 1))})"


def _change(relative: Interval | None) -> str:
    """A relative change in words, such as `2.5 % [2.4, 2.6] lower`; empty unless it is clear."""
    if relative is None or not (how := _sign(relative)):
        return ""
    return f"{_in_percent(_sized(relative, 100, 1))} {how}"


def _sign(change: Interval) -> str:
    """The direction of a change; empty if its interval contains 0, or if there is none."""
    _, low, high = map(float, change)
    return "lower" if high < 0 else "higher" if low > 0 else ""


def _sized(change: Interval, scale: float, digits: int) -> str:
    """The size of a change and its bounds without their signs."""
    value, low, high = (scale * float(bound) for bound in change)
    return bracket(-value, -high, -low, digits) if value < 0 else bracket(value, low, high, digits)


def _in_percent(text: str) -> str:
    number, _, bounds = text.partition(" ")
    return f"{number} % {bounds}".rstrip()


def _value(column: Column, row: dict[str, Any]) -> str:
    return f"{estimate_text(row)} {column.unit}".rstrip()


def _ranked(column: Column, estimates: Mapping[str, float]) -> list[str]:
    """The methods that have an estimate, the best first, or the lowest if no direction is better."""
    some = {m: value for m, value in estimates.items() if m not in REFERENCES and not math.isnan(value)}
    return sorted(some, key=lambda method: some[method], reverse=column.better == "higher")


def _extreme(column: Column) -> str:
    return "highest" if column.better == "higher" else "lowest"


def _at(study: SavedStudy, condition: Any) -> str:
    if study.kind == "compare":
        return f"With {condition} physics"
    if not study.axis_label:
        return "Overall"
    label, unit = re.fullmatch(r"(.*?)(?: \[(.*)\])?", study.axis_label, re.DOTALL).groups("")  # pyright: ignore[reportOptionalMemberAccess]
    return f"At {label} {condition} {unit}".rstrip()


def _range(conditions: Sequence[Any]) -> str:
    first, last = conditions[0], conditions[-1]
    return f"at {first}" if len(conditions) == 1 else f"from {first} to {last}"


def _named(methods: Sequence[str]) -> str:
    """The names of the first few methods and the number of the others."""
    more = len(methods) - _MAX_NAMES
    if more > 1:
        return f"{', '.join(map(in_words, methods[:_MAX_NAMES]))} and {more} others"
    return joined(map(in_words, methods))
