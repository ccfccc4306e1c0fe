"""AMCo-JAX: a vectorised simulator of collaborative edge computing for AIGC services.

Public names are imported on first use, so that `import amco_jax` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amco_jax.agents.methods import METHODS, Method, get_method, trained_method
    from amco_jax.agents.policy import Policy, SlotView, TaskView, per_slot, per_task
    from amco_jax.agents.settings import Settings
    from amco_jax.alloc import ALLOCATORS, cwa, hecwa, waterfill
    from amco_jax.environment import AutoReset, DecisionEnv, EnvParams, SlotEnv, episode_key
    from amco_jax.environment.gymnasium import GymnasiumEnv, GymnasiumVectorEnv
    from amco_jax.environment.gymnax import GymnaxEnv
    from amco_jax.environment.pettingzoo import PettingZooEnv
    from amco_jax.environment.stable_baselines3 import StableBaselinesEnv
    from amco_jax.errors import InputError
    from amco_jax.experiment.compare import CompareResult, compare
    from amco_jax.experiment.engines import Execution
    from amco_jax.experiment.evaluate import EvaluateResult, evaluate, load_run
    from amco_jax.experiment.sweep import SweepResult, sweep
    from amco_jax.experiment.train import TrainResult, train
    from amco_jax.experiment.tune import TuneResult, tune
    from amco_jax.kernel import Episode, rollout
    from amco_jax.params import Params
    from amco_jax.presets import PRESETS, load_scenario
    from amco_jax.recording import load_recording, replay
    from amco_jax.runtime import configure
    from amco_jax.scenario import Scenario

_MODULES = {
    "agents.methods": ("METHODS", "Method", "get_method", "trained_method"),
    "agents.settings": ("Settings",),
    "agents.policy": ("Policy", "SlotView", "TaskView", "per_slot", "per_task"),
    "alloc": ("ALLOCATORS", "cwa", "hecwa", "waterfill"),
    "environment": ("AutoReset", "DecisionEnv", "EnvParams", "SlotEnv", "episode_key"),
    "environment.gymnasium": ("GymnasiumEnv", "GymnasiumVectorEnv"),
    "environment.gymnax": ("GymnaxEnv",),
    "environment.pettingzoo": ("PettingZooEnv",),
    "environment.stable_baselines3": ("StableBaselinesEnv",),
    "errors": ("InputError",),
    "experiment.compare": ("CompareResult", "compare"),
    "experiment.engines": ("Execution",),
    "experiment.evaluate": ("EvaluateResult", "evaluate", "load_run"),
    "experiment.sweep": ("SweepResult", "sweep"),
    "experiment.train": ("TrainResult", "train"),
    "experiment.tune": ("TuneResult", "tune"),
    "recording": ("load_recording", "replay"),
    "kernel": ("Episode", "rollout"),
    "runtime": ("configure",),
    "params": ("Params",),
    "presets": ("PRESETS", "load_scenario"),
    "scenario": ("Scenario",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ALLOCATORS",
    "METHODS",
    "PRESETS",
    "AutoReset",
    "CompareResult",
    "DecisionEnv",
    "EnvParams",
    "Episode",
    "EvaluateResult",
    "Execution",
    "GymnasiumEnv",
    "GymnasiumVectorEnv",
    "GymnaxEnv",
    "InputError",
    "Method",
    "Params",
    "PettingZooEnv",
    "Policy",
    "Scenario",
    "Settings",
    "SlotEnv",
    "SlotView",
    "StableBaselinesEnv",
    "SweepResult",
    "TaskView",
    "TrainResult",
    "TuneResult",
    "compare",
    "configure",
    "cwa",
    "episode_key",
    "evaluate",
    "get_method",
    "hecwa",
    "load_recording",
    "load_run",
    "load_scenario",
    "per_slot",
    "per_task",
    "replay",
    "rollout",
    "sweep",
    "train",
    "trained_method",
    "tune",
    "waterfill",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'amco_jax' has no attribute '{name}'")
    return getattr(importlib.import_module(f"amco_jax.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
