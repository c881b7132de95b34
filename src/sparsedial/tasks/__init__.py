"""Tasks define what the score of a model is: self-prediction, accuracy on text, and the tasks of lm-eval."""

from sparsedial.tasks.base import Scores, Task, TaskGroup
from sparsedial.tasks.denoising_replay import DenoisingReplay
from sparsedial.tasks.masked_token import MaskedToken
from sparsedial.tasks.next_token import NextToken
from sparsedial.tasks.registry import make_tasks
from sparsedial.tasks.restoration import Restoration
from sparsedial.tasks.self_prediction import SelfPrediction
from sparsedial.tasks.spec import TaskSpec

__all__ = [
    "DenoisingReplay",
    "Restoration",
    "MaskedToken",
    "NextToken",
    "Scores",
    "SelfPrediction",
    "Task",
    "TaskGroup",
    "TaskSpec",
    "make_tasks",
]
