"""What results depend on: a user's functions, objects and modules, and what follows for resuming."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from helpers.studies import carry_out
from helpers.tiny_training import LEARN, TINY

from amco_jax import (
    Evaluation,
    Execution,
    InputError,
    Method,
    Sweep,
    Training,
    get_method,
    per_task,
    run_study,
    trained_method,
)
from amco_jax.agents.actions import Enumerated, partners
from amco_jax.cli.arguments import load_method
from amco_jax.env import Physics
from amco_jax.identity import identify, name_of
from amco_jax.study.grid import Cell

EVERYONE = get_method("all-servers").policy
TABLE = np.arange(3.0)
FILES = {
    "myalloc": """
import numpy as np
import jax.numpy as jnp
from amco_jax import Method, get_method
from myhelp import power
TABLE = np.load("table.npy")
def inverse(wait, cost, selected, scale=1.0):
    import mylazy
    rate = jnp.where(selected, TABLE[0] * scale / (wait + cost) ** power(), 0)
    total = jnp.sum(rate)
    return rate / jnp.where(total > 0, total, 1)
METHOD = Method("mine", get_method("all-servers").policy, allocator=inverse)
""",
    "myhelp": "from mypack import deep\ndef power():\n    return deep.POWER\n",
    "mypack/__init__": "",
    "mypack/deep": "POWER = 1.0\n",
    "mylazy": "UNUSED = 1\n",
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Method]]:
    """Modules of a user; a function that edits one of them and imports all anew, as another process would."""
    home = tmp_path / "own"
    (home / "mypack").mkdir(parents=True)
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(**edited: str) -> Method:
        np.save("table.npy", np.ones(1) * float(edited.pop("table", "1")))
        for name, text in (FILES | {k.replace("__", "/"): v for k, v in edited.items()}).items():
            (home / f"{name}.py").write_text(text)
        for name in list(sys.modules):
            if name.startswith(("myalloc", "myhelp", "mypack", "mylazy")):
                del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("myalloc").METHOD

    yield load
    for name in list(sys.modules):
        if name.startswith(("myalloc", "myhelp", "mypack", "mylazy")):
            del sys.modules[name]


@pytest.mark.parametrize(
    "edit",
    [
        {"myalloc": FILES["myalloc"].replace("scale=1.0", "scale=2.0")},
        {"myhelp": FILES["myhelp"].replace("deep.POWER", "2 * deep.POWER")},
        {"mypack__deep": "POWER = 2.0\n"},
        {"mylazy": "UNUSED = 2\n"},
        {"table": "3"},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edit_of_any_own_module_or_table_is_another_identity(own: Callable[..., Method], edit: dict):
    before = identify(own())
    assert list(before.modules) == ["myalloc", "myhelp", "mylazy", "mypack", "mypack.deep"]
    assert not before.unseen
    assert identify(own()) == before
    assert identify(own(**edit)).digest != before.digest


LEARNER = """
import dataclasses
from helpers.studies import carry_out
from amco_jax.agents.actions import partners
from amco_jax.agents.qlearning import QLearning
@dataclasses.dataclass(frozen=True, kw_only=True)
class Eager(QLearning):
    def rounds(self, context):
        return super().rounds(context) * 2
LEARNER = Eager(actions=partners)
"""


PRICE_LEARNER = """
import dataclasses
from amco_jax.agents.pricing import PriceLearner
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(PriceLearner):
    def learn(self, *arguments):
        learnt, memory, logs = super().learn(*arguments)
        return learnt._replace(work=0 * learnt.work + 1 * 2), memory, logs
LEARNER = Constant()
"""


def with_learner(own: Callable[..., Method], text: str) -> Method:
    own(mylearner=text)
    sys.modules.pop("mylearner", None)
    return Method("m", training=importlib.import_module("mylearner").LEARNER)


@pytest.mark.parametrize(
    ("text", "setting"),
    [(LEARNER, {"discount": 0.5}), (PRICE_LEARNER, {"ridge": 0.5})],
    ids=["own policy", "inherited policy"],
)
def test_stored_agents_are_named_after_the_source_of_their_learner(
    own: Callable[..., Method], text: str, setting: dict[str, float]
):
    def name(text: str, **settings: Any) -> str:
        method = with_learner(own, text).with_settings(**settings)
        return Cell(scenario=TINY, method=method, train_episodes=2).training_name(0)

    found = name(text), name(text.replace("* 2", "* 3")), name(text, **setting)
    assert len(set(found)) == 3
    assert name(text) == found[0]


def test_a_learner_that_is_edited_within_a_process_is_compiled_anew(own: Callable[..., Method]):
    def learnt(text: str) -> Any:
        study = Training(with_learner(own, text), seeds=1, episodes=1, scenario=TINY)
        return run_study(study).agents.work

    assert (learnt(PRICE_LEARNER) == 2).all()
    assert (learnt(PRICE_LEARNER.replace("* 2", "* 3")) == 3).all()


def scaled(wait: Any, cost: Any, selected: Any, scale: float = 1.0) -> Any:
    rate = jnp.where(selected, 1 / (wait + cost) ** scale, 0)
    return rate / jnp.maximum(jnp.sum(rate), 1e-9)


@dataclasses.dataclass
class Scaled:
    """Neither frozen nor hashable."""

    scale: float
    table: Any = None

    def __call__(self, wait: Any, cost: Any, selected: Any) -> Any:
        return scaled(wait, cost, selected, self.scale)


def enclosing(scale: float) -> Any:
    return lambda wait, cost, selected: scaled(wait, cost, selected, scale)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(scaled, scale=1.0), functools.partial(scaled, scale=2.0)),
        (functools.partial(scaled, scale=2), functools.partial(scaled, scale=2.0)),
        (Scaled(1.0), Scaled(2.0)),
        (Scaled(1.0, np.ones(2)), Scaled(1.0, np.array([1.0, 2.0]))),
        (Scaled(1.0, jnp.ones(2)), Scaled(1.0, jnp.ones(3))),
        (Scaled(1.0, {"a": {1, 2}}), Scaled(1.0, {"a": {1, 3}})),
        (enclosing(1.0), enclosing(2.0)),
        (jax.jit(enclosing(1.0)), jax.jit(enclosing(2.0))),
        (functools.cache(enclosing(1.0)), functools.cache(enclosing(2.0))),
        (Scaled(1.0).__call__, Scaled(2.0).__call__),
        (
            Method("m", EVERYONE, published=Physics()),
            Method("m", EVERYONE, published=Physics(wait_capped=True)),
        ),
        (trained_method("m", partners), trained_method("m", partners, leak=0.1)),
        (get_method("fastest-2"), dataclasses.replace(get_method("fastest-3"), name="fastest-2")),
    ],
)
def test_values_are_told_apart_by_content_alone(one: Any, other: Any):
    assert identify(one).digest != identify(other).digest
    assert identify(one) == identify(one)
    assert not identify(one, other).unseen


def test_equal_content_is_one_identity_in_other_objects():
    assert identify(Scaled(2.0, np.ones(3))) == identify(Scaled(2.0, np.ones(3)))
    assert identify(enclosing(2.0)) == identify(enclosing(2.0))


def test_code_from_a_prompt_is_seen():
    def typed(text: str) -> Any:
        scope: dict[str, Any] = {"__name__": "typed", "K": 1.0}
        exec(text, scope)
        return scope["f"]

    one, other = (typed(f"f = lambda wait: wait * {k} * K") for k in (1, 2))
    assert identify(one).digest != identify(other).digest
    before = identify(one)
    one.__globals__["K"] = 2.0
    assert identify(one).digest != before.digest


RESUMING = Execution(resume=True)


def test_resuming_takes_unchanged_rows_and_computes_those_of_other_code_anew(
    own: Callable[..., Method], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def run(method: Method, **options: Any) -> Any:
        return carry_out(
            Sweep,
            "deadline",
            values=[0.5],
            methods=["local", method],
            seeds=2,
            scenario=TINY,
            out=tmp_path / "out",
            **options,
        )

    def commits() -> list[tuple[str, int]]:
        found = sorted((tmp_path / "out" / "units").glob("*.sha256"))
        return [(p.name, p.stat().st_mtime_ns) for p in found]

    first, before = run(own()).rows, commits()
    run(own(), execution=RESUMING)
    assert commits() == before
    edited = own(mypack__deep="POWER = 3.0\n")
    with pytest.raises(InputError, match=r"something else: depends_on\.mine\.\S+ = .*mypack\.deep = "):
        run(edited, execution=Execution(shard="0/2"))  # which goes on with nobody else's units
    assert commits() == before
    assert not caplog.messages
    renewed = run(edited, execution=RESUMING).rows
    assert caplog.messages == ["resume: 1 of 2 units are computed anew, as what they depend on has changed"]
    assert commits()[0] == before[0]
    assert len(commits()) == 2
    assert commits()[1][0] != before[1][0]
    same = renewed["makespan_mean_s"] == first["makespan_mean_s"]
    assert same.tolist() == (first["method"] == "local").tolist()
    fresh = run(edited, overwrite=True).rows
    pd.testing.assert_frame_equal(fresh, renewed)


def test_what_cannot_be_seen_is_not_resumed(tmp_path: Path):
    lock = threading.Lock()
    mine = Method("mine", per_task(lambda view: view.local & (lock is not None)))

    def run(**options: Any) -> Any:
        return carry_out(
            Sweep, "deadline", values=[0.5], methods=[mine], seeds=1, scenario=TINY, out=tmp_path, **options
        )

    run()
    for execution in (RESUMING, Execution(shard="0/2")):
        with pytest.raises(
            InputError, match=r"(resume|shard): results depend on lock in .*; legal: overwrite"
        ):
            run(execution=execution)
    run(overwrite=True)


def pair_sets(with_local: bool, num_servers: int) -> Enumerated:
    return Enumerated(tuple((i,) for i in range(num_servers)), num_servers, with_local)


@pytest.mark.parametrize(
    "allocator", [functools.partial(scaled, scale=2.0), Scaled(2.0), Scaled(2.0, np.ones(2))], ids=name_of
)
def test_partials_and_objects_are_allocators_policies_and_action_spaces(allocator: Any, tmp_path: Path):
    plain = Method("plain", EVERYONE, allocator=enclosing(2.0))
    mine = Method("mine", per_task(functools.partial(lambda add, view: view.local | add, True)), allocator)
    rows = run_study(Sweep("deadline", values=[0.5], methods=[plain, mine], seeds=2, scenario=TINY)).rows
    one, other = (
        rows.loc[rows["method"] == name, "makespan_mean_s"].to_numpy() for name in ("plain", "mine")
    )
    np.testing.assert_array_equal(one, other)
    actions = functools.partial(pair_sets, True)
    learner = dataclasses.replace(trained_method("mine", actions, **LEARN), allocator=allocator)
    run_study(Training(learner, seeds=1, episodes=2, scenario=TINY), tmp_path / "out")
    found = evaluate_with(tmp_path / "out", learner, "")
    assert found.manifest["num_seeds"] == 1
    assert identify(pickle.loads(pickle.dumps(mine.allocator))) == identify(allocator)


def evaluate_with(run: Path, method: Method, warning: str, caplog: Any = None) -> Any:
    from amco_jax import load_run

    found = run_study(Evaluation(load_run(run, method=method), methods=[]))
    assert warning in (caplog.text if caplog else "")
    return found


def test_agents_of_a_method_that_has_changed_are_evaluated_with_a_warning(
    own: Callable[..., Method], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def learner(**edited: str) -> Method:
        return dataclasses.replace(
            trained_method("mine", partners, **LEARN), allocator=own(**edited).allocator
        )

    run_study(Training(learner(), seeds=1, episodes=2, scenario=TINY), tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        evaluate_with(tmp_path / "out", learner(), "", caplog)
        assert not caplog.text
        changed = "mine is not as it was when its agents were trained: mypack.deep changed"
        evaluate_with(tmp_path / "out", learner(mypack__deep="POWER = 2.0\n"), changed, caplog)


@pytest.mark.usefixtures("often_saved")
def test_a_training_of_other_code_begins_anew(
    own: Callable[..., Method],
    tmp_path: Path,
    interrupt: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
):
    def run(to: str = "out", **edited: str) -> Any:
        learner = dataclasses.replace(
            trained_method("mine", partners, **LEARN), allocator=own(**edited).allocator
        )
        return run_study(
            Training(learner, seeds=1, episodes=4, scenario=TINY),
            tmp_path / to,
            execution=Execution(resume=True),
        )

    interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert list((tmp_path / "out" / "units").glob("*.checkpoints"))
    interrupt(10**5)
    edited = run(mypack__deep="POWER = 2.0\n").rows
    assert not caplog.messages  # nothing had been committed
    pd.testing.assert_frame_equal(run("other", mypack__deep="POWER = 2.0\n").rows, edited)
    assert not list((tmp_path / "out" / "units").glob("*.checkpoints"))
    assert (run().rows["makespan_mean_s"] != edited["makespan_mean_s"]).all()
    assert caplog.messages == ["resume: 1 of 1 units are computed anew, as what they depend on has changed"]


def test_a_value_that_changes_within_a_process_is_compiled_anew():
    allocator = Scaled(0.0)  # equal shares
    mine = Method("mine", EVERYONE, allocator=allocator)

    def makespans(method: Method) -> Any:
        return (
            run_study(Sweep("deadline", values=[0.5], methods=[method], seeds=2, scenario=TINY))
            .rows["makespan_mean_s"]
            .to_numpy()
        )

    before = makespans(mine)
    allocator.scale = 2.0
    after = makespans(mine)
    assert (before != after).all()
    np.testing.assert_array_equal(after, makespans(Method("mine", EVERYONE, allocator=Scaled(2.0))))


def test_methods_of_one_s_own_take_built_in_allocators_by_name(own: Callable[..., Method]):
    own()
    assert load_method("myalloc:METHOD+hecwa").name == "mine+hecwa"
    assert (
        dataclasses.replace(load_method("myalloc:METHOD"), name="a+b").with_allocator("cwa").name == "a+b+cwa"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Method("m", scaled), r"policy: scaled; legal: per_task or per_slot"),  # pyright: ignore[reportArgumentType]
        (lambda: Method("m", EVERYONE, allocator=1.0), "allocator: a float; legal: a function"),  # pyright: ignore[reportArgumentType]
        (lambda: per_task(None), "policy: a NoneType; legal: a function"),  # pyright: ignore[reportArgumentType]
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_method_is_refused(make: Callable[[], Any], words: str):
    with pytest.raises(InputError, match=words):
        make()
