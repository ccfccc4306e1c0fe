"""Scenarios by name and from TOML files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from amco_jax.errors import InputError
from amco_jax.scenario import Scenario
from amco_jax.scenario.presets import PRESETS, load_scenario


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load(name: str):
    scenario = load_scenario(name)
    if name != "default":
        assert scenario.service is not None or name == "capacity-" + "-".join(
            f"{c:g}" for c in scenario.capacities
        )
    assert load_scenario(name, {"num_slots": 7}) == scenario.replace(num_slots=7)


def toml(folder: Path, text: str | bytes) -> Path:
    path = folder / "scenario.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_toml_files_load(tmp_path: Path):
    path = toml(tmp_path, "num_tasks = 7\ncapacity = [1, 2.5]\nlink_rate = [[1, 2], [3, 4]]\n")
    expected = Scenario(num_tasks=7, capacity=(1, 2.5), link_rate=((1, 2), (3, 4)))
    assert load_scenario(path) == load_scenario(str(path)) == expected
    assert load_scenario(path, {"num_tasks": 8}).num_tasks == 8
    path = toml(tmp_path, 'preset = "capacity-10-30-50-70-90"\narrival_prob = 0.5')
    assert load_scenario(path) == Scenario(capacity=(10, 30, 50, 70, 90), arrival_prob=0.5)
    assert load_scenario(toml(tmp_path, "")) == Scenario()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\r\n", "\n", "\r"])
def test_byte_order_marks_and_newlines_of_any_system_change_nothing(
    tmp_path: Path, encoding: str, newline: str
):
    text = newline.join(
        ["# für 3 Server", "num_servers = 3", "capacity = [20, 30, 60]", "deadline = 0.8", ""]
    )
    path = toml(tmp_path, text.encode(encoding))
    assert load_scenario(path) == Scenario(num_servers=3, capacity=(20, 30, 60), deadline=0.8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arival_prob = 0.5", "unknown field 'arival_prob'"),
        ("[scenario]\narrival_prob = 0.5", "unknown field 'scenario'"),
        ("arrival_prob = ", "not valid TOML"),
        ("deadline = 1\ndeadline = 2", "not valid TOML"),
        ("just words", "not valid TOML"),
        (b"\x80\x04\x95\x00\xff\xfe", "not valid TOML"),
        (b"PK\x03\x04\x00\x00", "not valid TOML"),
        ("capacity = " + "[" * 5000 + "]" * 5000, "not valid TOML"),
        ("deadline = nan", "deadline: nan"),
        ("deadline = inf", "deadline: inf"),
        ("deadline = 2024-01-01", "deadline: datetime.date"),
        ("num_tasks = 5.0", "num_tasks: 5.0"),
        ('preset = "fast"', "preset: 'fast'"),
        ("preset = 3", "preset: 3"),
        ('preset = ["default"]', "preset: "),
        ("fleet = 3", "fleet: 3; legal: a table"),
    ],
)
def test_bad_toml_files_are_refused(tmp_path: Path, text: str | bytes, words: str):
    with pytest.raises(InputError) as refused:
        load_scenario(toml(tmp_path, text))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path):
    for source in (tmp_path / "none.toml", tmp_path, "", "no-such-preset", "a\0b"):
        words = re.escape(f"scenario: '{source}' is neither a preset (default, ")
        with pytest.raises(InputError, match=rf"{words}.*\) nor a readable file"):
            load_scenario(source)
    with pytest.raises(InputError, match="unknown field 'speed'"):
        load_scenario("default", {"speed": 3})
