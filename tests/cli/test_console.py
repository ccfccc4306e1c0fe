"""`amco-jax` and the scripts that start the same commands."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tomllib

import pytest
from helpers.paths import ROOT

import amco_jax
from amco_jax.commands import command_modules

SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def test_every_command_has_a_script_of_its_name():
    assert sorted(name.replace("-", "_") for name in command_modules()) == SCRIPTS


def test_the_list_of_commands_needs_no_jax():
    program = (
        "import sys; from amco_jax.commands import main; sys.argv = ['amco-jax', '--help']; main();"
        "assert not {'jax', 'numpy', 'tyro'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in command_modules():
        assert f"  {name} " in done.stdout
    assert "Sweep one quantity of the scenario, for several methods and many seeds." in done.stdout


def test_other_packages_are_declared_and_not_imported():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]
    for name, module in declared["amco_jax.commands"].items():
        assert command_modules()[name] == module


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_the_command(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shown = []
    for start in (
        lambda: runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__"),
        lambda: runpy.run_module("amco_jax", run_name="__main__"),
    ):
        command = [script.replace("_", "-")] if shown else []
        monkeypatch.setattr(sys, "argv", ["amco-jax", *command, "--help"])
        with pytest.raises(SystemExit) as stop:
            start()
        assert stop.value.code in (0, None)
        usage, _, text = capsys.readouterr().out.partition("\n")
        shown.append(text)
    assert usage.startswith(f"usage: amco-jax {script.replace('_', '-')} ")
    assert shown[0] == shown[1]


@pytest.mark.parametrize("words", [[], ["swep"], ["--seeds", "3"]])
def test_unknown_commands_are_refused_in_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["amco-jax", *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("amco_jax", run_name="__main__")
    message = capsys.readouterr().err
    assert stop.value.code == 2
    assert message.startswith(f"error: command: {words[0] if words else ''!r}; legal: bench, ")
    assert message.count("\n") == 1


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["amco-jax", "--version"])
    runpy.run_module("amco_jax", run_name="__main__")
    assert capsys.readouterr().out == f"{amco_jax.__version__}\n"
