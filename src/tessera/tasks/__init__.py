"""Tasks: what is asked, and what a text earns. Nothing here loads torch."""

from tessera.tasks.base import SPLITS, LoadedTask, Reward, Split, Task, grade_text, read_reward
from tessera.tasks.in_memory import InMemoryTask
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.registry import grade, list_tasks, load_task
from tessera.tasks.rewards import reward_by_name
from tessera.tasks.validate import validate_task

__all__ = [
    "SPLITS",
    "InMemoryTask",
    "LoadedTask",
    "PromptFormat",
    "Reward",
    "Split",
    "Task",
    "grade",
    "grade_text",
    "list_tasks",
    "load_task",
    "read_reward",
    "reward_by_name",
    "validate_task",
]
