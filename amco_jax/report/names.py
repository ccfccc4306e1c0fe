"""Methods as readers see them, where the name of a method says more than it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_SHOWN = {
    "optimal": "greedy optimum",
    "optimal-enumeration": "greedy optimum by enumeration",
    "optimal-admission": "greedy optimum with admission",
}
"""`optimal` is the best choice for one task, and no bound on what a method can reach over an episode."""

_VARIANTS = ("-stable", "-regret")
"""The published networks with other settings"""


def paper_name(method: str) -> str:
    """The name of the paper's method of which a method is a variant with other settings, or else its own."""
    for variant in _VARIANTS:
        method = method.removesuffix(variant)
    return method


def shown_name(method: str) -> str:
    """The name of a method in tables and figures; command lines and files keep the method's own name."""
    name, plus, allocator = method.partition("+")
    return f"{_SHOWN.get(name, name)}{plus}{allocator}"


def in_words(method: str) -> str:
    """The name of a method within a sentence."""
    shown = shown_name(method)
    return shown if shown == method else f"the {shown}"


def joined(parts: Iterable[str], last: str = " and ") -> str:
    """Words in one phrase: `a`, `a and b`, or `a, b and c`."""
    *some, end = [*parts] or [""]
    return f"{', '.join(some)}{last}{end}" if some else end


def counted(number: int, noun: str) -> str:
    """A number of things, whose plural ends in s: `1 seed`, `2 seeds`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def trained_for(training: Mapping[str, Any]) -> str:
    """How the methods of a sweep were trained, from that part of its manifest; empty if none were."""
    if not training["settings"]:
        return ""
    each = joined(f"{in_words(name)} for {counted(n, 'episode')}" for name, n in training["episodes"].items())
    return f"trained at each value with {counted(training['num_seeds'], 'seed')}: {each}"


def all_of(number: int, noun: str) -> str:
    """All of several things: `both values`, `all 3 values`."""
    return f"both {noun}s" if number == 2 else f"all {counted(number, noun)}"


def capitalised(text: str) -> str:
    """The text with a capital first letter and all others as they are, for the beginning of a sentence."""
    return f"{text[:1].upper()}{text[1:]}"
