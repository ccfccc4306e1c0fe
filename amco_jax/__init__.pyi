# The public names, each declared once: one line per name, which imports it under the same name to export it.

from .agents.methods import METHODS as METHODS
from .agents.methods import Method as Method
from .agents.methods import get_method as get_method
from .agents.methods import trained_method as trained_method
from .agents.policy import Policy as Policy
from .agents.policy import SlotView as SlotView
from .agents.policy import TaskView as TaskView
from .agents.policy import per_slot as per_slot
from .agents.policy import per_task as per_task
from .agents.settings import Settings as Settings
from .alloc import ALLOCATORS as ALLOCATORS
from .alloc import cwa as cwa
from .alloc import hecwa as hecwa
from .alloc import waterfill as waterfill
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
from .experiment.compare import CompareResult as CompareResult
from .experiment.compare import compare as compare
from .experiment.engines import Execution as Execution
from .experiment.evaluate import EvaluateResult as EvaluateResult
from .experiment.evaluate import evaluate as evaluate
from .experiment.evaluate import load_run as load_run
from .experiment.sweep import SweepResult as SweepResult
from .experiment.sweep import sweep as sweep
from .experiment.train import TrainResult as TrainResult
from .experiment.train import train as train
from .experiment.tune import TuneResult as TuneResult
from .experiment.tune import tune as tune
from .kernel import Episode as Episode
from .kernel import rollout as rollout
from .params import Params as Params
from .presets import PRESETS as PRESETS
from .presets import load_scenario as load_scenario
from .recording import load_recording as load_recording
from .recording import replay as replay
from .runtime import configure as configure
from .scenario import Scenario as Scenario

__all__: list[str]
__version__: str
