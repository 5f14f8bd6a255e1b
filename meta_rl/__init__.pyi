from .algorithm import MetaAlgorithm as MetaAlgorithm
from .algorithms import register_algorithm as register_algorithm
from .checks import check_task_env as check_task_env
from .definition import TaskFuncEnv as TaskFuncEnv
from .evaluation import evaluate_adaptation as evaluate_adaptation
from .evaluation.result import EvaluationResult as EvaluationResult
from .make import make_task_vec as make_task_vec
from .make import register_task_env as register_task_env
from .pretrained import load_pretrained as load_pretrained
from .pretrained import pretrained_card as pretrained_card
from .rendering.window import frame_grid as frame_grid
from .rollout import Rollout as Rollout
from .sb3 import sb3_env as sb3_env
from .task_env import TaskEnv as TaskEnv
from .task_env import TaskVectorEnv as TaskVectorEnv
from .tasks import FiniteTasks as FiniteTasks
from .tasks import SampledTasks as SampledTasks
from .tasks import TaskDistribution as TaskDistribution
from .tasks import TaskSplit as TaskSplit
from .tasks import UniformTasks as UniformTasks

__version__: str
