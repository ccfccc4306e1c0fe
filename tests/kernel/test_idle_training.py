"""Trainings that cannot learn: refused, or told in the terminal and the manifest."""

from __future__ import annotations

import pytest
from helpers.tiny_training import METHOD, TINY

from amco_jax.errors import InputError
from amco_jax.study.compare import Comparison
from amco_jax.study.grid import Cell
from amco_jax.study.run import run_study
from amco_jax.study.sweep import Sweep
from amco_jax.study.train import Training
from amco_jax.study.trainer import check_training
from amco_jax.study.tune import Tuning

ONE_SLOT = rf"^num_slots: 1; legal for training {METHOD.name}: at least 2, since"


def test_trainings_of_one_slot_are_refused():
    """At every door: nothing would be learnt in silence."""
    single = TINY.replace(num_slots=1)
    for refused in (
        lambda: run_study(Training(METHOD, seeds=1, episodes=1, scenario=single)),
        lambda: run_study(
            Sweep("num_slots", values=(1, 3), methods=[METHOD], seeds=1, scenario=TINY, episodes=1)
        ),
        lambda: run_study(Comparison([METHOD], seeds=1, episodes=1, last=1, scenario=single)),
        lambda: run_study(Tuning(METHOD, {"discount": [0]}, seeds=1, episodes=1, scenario=single)),
    ):
        with pytest.raises(InputError, match=ONE_SLOT):
            refused()
    run_study(
        Sweep("num_slots", values=(1,), methods=["local"], seeds=1, scenario=TINY)
    )  # rules have nothing to learn


def test_trainings_beyond_their_counters_are_refused():
    long = TINY.replace(num_slots=1_000_000)

    def check(episodes: int, **changes: int) -> list[str]:
        method = METHOD.with_settings(**changes)
        return check_training(Cell(scenario=long, method=method, train_episodes=episodes))

    assert check(536) == []
    with pytest.raises(InputError, match=r"^episodes: 537 of 1000000 slots with up to 4 .*at most 536 such"):
        check(537)
    with pytest.raises(InputError, match=r"^episodes: 3 .*up to 1000 .*at most 2 such"):
        check(3, learn_repeats=1000)


@pytest.mark.parametrize(
    ("episodes", "changes", "arrival_prob", "says"),
    [
        (2, {"learn_after": 12}, 0.6, "no learning step: its training has 12 slots, learn_after is 12"),
        (2, {"learn_after": 0, "learn_interval": 13}, 0.6, "no learning step"),
        (2, {"learn_after": 0, "learn_interval": 12}, 0.6, None),
        (2, {}, 0.0, "hardly anything to learn from"),
        (2, {}, 0.02, "hardly anything to learn from"),
        (2, {"replay_capacity": 1, "batch_size": 4}, 0.6, None),  # drawn with replacement
    ],
)
def test_trainings_that_learn_nothing_are_told(episodes, changes, arrival_prob, says, caplog):
    method = METHOD.with_settings(**changes)
    scenario = TINY.replace(arrival_prob=arrival_prob)
    result = run_study(Training(method, seeds=2, episodes=episodes, scenario=scenario))
    told = result.manifest["warnings"]
    assert [record.getMessage() for record in caplog.records] == told
    learnt = result.rows["loss"].notna().to_numpy().reshape(2, episodes).any(axis=1)
    if says is None:
        assert told == []
        assert learnt.all()
    else:
        assert says in told[0]
        after = f"{METHOD.name} made no learning step in {2 - learnt.sum()} of 2 seeds."
        assert (after in told) == (not learnt.all())
    if says is not None and "no learning step" in says:
        assert not learnt.any()
    swept = run_study(
        Sweep(
            "arrival_prob",
            values=(arrival_prob, 0.9),
            methods=[method],
            seeds=1,
            scenario=scenario,
            episodes=episodes,
        )
    )
    prefix = f"arrival_prob = {arrival_prob}: "
    assert any(text.startswith(prefix) for text in swept.manifest["warnings"]) == (says is not None)
