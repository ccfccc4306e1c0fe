# The public names, each declared once: one line per name, which imports it under the same name to export it.

from .agents.learner import Context as Context
from .agents.learner import Experience as Experience
from .agents.learner import Learner as Learner
from .agents.learner import Observation as Observation
from .agents.methods import METHODS as METHODS
from .agents.methods import Method as Method
from .agents.methods import get_method as get_method
from .agents.methods import trained_method as trained_method
from .agents.policy import Policy as Policy
from .agents.policy import SlotView as SlotView
from .agents.policy import TaskView as TaskView
from .agents.policy import per_slot as per_slot
from .agents.policy import per_task as per_task
from .agents.qlearning import QSettings as QSettings
from .agents.settings import Settings as Settings
from .agents.settings import setting as setting
from .alloc import ALLOCATORS as ALLOCATORS
from .alloc import cwa as cwa
from .alloc import hecwa as hecwa
from .alloc import waterfill as waterfill
from .compile.runtime import configure as configure
from .environment import AutoReset as AutoReset
from .environment import DecisionEnv as DecisionEnv
from .environment import EnvParams as EnvParams
from .environment import SlotEnv as SlotEnv
from .environment import episode_key as episode_key
from .environment.gymnasium import GymnasiumEnv as GymnasiumEnv
from .environment.gymnasium import GymnasiumVectorEnv as GymnasiumVectorEnv
from .environment.gymnax import GymnaxEnv as GymnaxEnv
from .environment.pettingzoo import PettingZooEnv as PettingZooEnv
from .environment.stable_baselines3 import StableBaselinesEnv as StableBaselinesEnv
from .errors import InputError as InputError
from .kernel import Episode as Episode
from .kernel import rollout as rollout
from .kernel.recording import load_recording as load_recording
from .kernel.recording import replay as replay
from .params import Params as Params
from .scenario import Scenario as Scenario
from .scenario.presets import PRESETS as PRESETS
from .scenario.presets import load_scenario as load_scenario
from .study.compare import CompareResult as CompareResult
from .study.compare import compare as compare
from .study.engines import Execution as Execution
from .study.evaluate import EvaluateResult as EvaluateResult
from .study.evaluate import evaluate as evaluate
from .study.evaluate import load_run as load_run
from .study.sweep import SweepResult as SweepResult
from .study.sweep import sweep as sweep
from .study.train import TrainResult as TrainResult
from .study.train import train as train
from .study.tune import TuneResult as TuneResult
from .study.tune import tune as tune

__all__: list[str]
__version__: str
