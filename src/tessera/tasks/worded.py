"""File tasks whose recipe chooses a wording of the papers by name, and the rewards by name and weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from tessera.core.types import Problem
from tessera.tasks.files import GradedTask
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.rewards import Weights

Wording = Literal["marked", "boxed", "think"]

WORDINGS: dict[str, PromptFormat] = {
    "marked": PromptFormat(
        style="chat",
        template="{question}\n\nThink step by step, and end with a line that says: The answer is NUMBER.",
    ),
    "boxed": PromptFormat(  # 2511.00066 App. B.1.2, which asks a base model without a chat template
        template="{question} Let's think step by step and output the final answer within \\boxed{}.",
    ),
    "think": PromptFormat(  # 2605.11538 Fig. 4
        style="chat",
        system="A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
        "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
        "answer, and put your final answer within \\boxed{}. The reasoning process and answer are enclosed within "
        "<think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> "
        "<answer> answer here </answer>. Note that respond by English, NOT use other languages.",
    ),
}


class WordedTask(GradedTask):
    """A file task with a wording by name, over which single keys of `prompt` can be set, and rewards by name."""

    wording: Wording = Field("boxed", description="how the answer is asked for; `prompt` changes single keys of it")
    reward_weights: Weights = Field("number", alias="reward", description="a reward by name, or names with weights")

    solution_column: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _word(cls, options: Any) -> Any:
        """Put the keys of the recipe's `prompt` over those of the wording."""
        default = cls.model_fields["wording"].get_default()
        wording = WORDINGS.get(str(options.get("wording", default)))
        if wording is None or not isinstance(prompt := options.get("prompt", {}), Mapping):
            return options
        return {**options, "prompt": {**wording.model_dump(), **prompt}}

    def gold(self, problem: Problem) -> str:
        """The row's worked solution, if it has one, and the answer, laid out as the wording asks."""
        return self.laid_out(problem, self.worked(problem), self.reference(problem))

    def reference(self, problem: Problem) -> str:
        """The gold answer, the first of several."""
        return str(problem.answer[0] if isinstance(problem.answer, tuple) else problem.answer)

    def worked(self, problem: Problem) -> str:
        """The row's worked solution; a word where there is none."""
        return str(problem.metadata.get(self.solution_column) or "So:")

    def laid_out(self, problem: Problem, solution: str, answer: str) -> str:
        """A whole turn, as the wording asks for it; what the prefill opened is not opened again."""
        if self.wording == "marked":
            return f"{solution}\nThe answer is {answer}."
        if self.wording == "boxed":
            return f"{solution}\nThe answer is $\\boxed{{{answer}}}$."
        opening = "" if "<think>" in problem.prefill else "<think>\n"
        return f"{opening}{solution}\n</think>\n<answer>\n$\\boxed{{{answer}}}$\n</answer>"
