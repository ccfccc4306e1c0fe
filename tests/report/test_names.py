"""Names of methods as readers see them."""

from __future__ import annotations

import pytest

from amco_jax.report.names import in_words, paper_name, shown_name


@pytest.mark.parametrize(
    ("method", "table", "sentence"),
    [
        ("optimal", "greedy optimum", "the greedy optimum"),
        ("optimal+hecwa", "greedy optimum+hecwa", "the greedy optimum+hecwa"),
        ("optimal-admission", "greedy optimum with admission", "the greedy optimum with admission"),
        ("optimally", "optimally", "optimally"),
        ("discount=0, leak=0.3", "discount=0, leak=0.3", "discount=0, leak=0.3"),
    ],
)
def test_the_greedy_choice_is_not_called_optimal(method: str, table: str, sentence: str):
    assert (shown_name(method), in_words(method)) == (table, sentence)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("amcoedge", "amcoedge"),
        ("smcoedge-stable", "smcoedge"),
        ("drlcoedge-regret", "drlcoedge"),
        ("randcoedge+hecwa", "randcoedge+hecwa"),
        ("amcoedge-factorised", "amcoedge-factorised"),
    ],
)
def test_variants_of_a_published_method_are_known_as_such(method: str, name: str):
    assert paper_name(method) == name
