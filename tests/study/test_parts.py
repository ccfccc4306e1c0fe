"""Commands that compute in parts, or find what others have computed: shards, and agents in a common store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.kills import PAPER_CALLS, assert_complete, tiny_paper, words_of
from helpers.studies import carry_out
from helpers.tiny_training import EPISODES, METHOD, SEEDS, TINY, Script, run

from amco_jax import Comparison, Evaluation, Execution, Sweep, Tuning, run_study
from amco_jax.study import reproduce, trainer


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of blocks of each call that trains."""
    blocks, advance = [], trainer.Trainer.advance
    monkeypatch.setattr(
        trainer.Trainer, "advance", lambda self, n: blocks.append(len(self._chunk)) or advance(self, n)
    )
    return blocks


@pytest.mark.parametrize("name", ["tune", "reproduce"])
def test_shards_of_a_command_make_one_result(
    name: str, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reproduce, "studies_of", tiny_paper)
    assert script(name, *words_of(name, tmp_path / "whole"))[0] == 0
    for shard in ("0/2", "1/2"):
        assert not list((tmp_path / "out").rglob("manifest.json"))
        code, shown, errors = script(name, *words_of(name, tmp_path / "out", "--shard", shard))
        assert code == 0, errors
        assert ("not computed yet" in shown) == (shard == "0/2")
    assert_complete(tmp_path / "out", tmp_path / "whole")


def test_studies_of_all_kinds_share_their_agents(trained: list[int], tmp_path: Path):
    sharing = Execution(shared_agents=tmp_path / "agents")
    run(out=tmp_path / "train", execution=sharing)
    assert sum(trained) == 1
    size: dict[str, Any] = {"seeds": SEEDS, "episodes": EPISODES, "scenario": TINY, "execution": sharing}
    carry_out(Comparison, [METHOD, "local"], last=2, physics=["unified"], **size)
    carry_out(Sweep, "deadline", values=[TINY.deadline], methods=[METHOD], **size)
    run_study(Evaluation(tmp_path / "train", methods=[]), execution=sharing)
    assert sum(trained) == 1
    settings: Any = METHOD.require_training().settings
    carry_out(Tuning, METHOD, {"discount": [settings.discount]}, reference="local", **size)
    assert sum(trained) == 2  # on seeds that no other study may use


def test_a_reproduction_trains_common_agents_once(
    trained: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The deadlines 0.5 and 1 in either physics; the comparison needs those of the scenario, 1, too."""
    monkeypatch.setattr(reproduce, "studies_of", tiny_paper)
    reproduce.reproduce(tmp_path / "out", quick=True)
    assert sum(trained) == 3 * PAPER_CALLS
    reproduce.reproduce(tmp_path / "out", quick=True)
    assert sum(trained) == 3 * PAPER_CALLS
