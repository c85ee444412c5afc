"""Addition, subtraction or multiplication of two numbers, asked for the bare answer: a task for the smallest models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tessera.core.types import Problem
from tessera.tasks.generated import GeneratedTask
from tessera.tasks.prompts import PromptFormat


class Arithmetic(GeneratedTask):
    """Sums, differences or products of two generated numbers, in a short plain prompt.

    A difference takes the smaller number from the larger, so no answer is negative.
    """

    prompt: PromptFormat = PromptFormat(template="Problem: {question}\nAnswer:")
    operation: Literal["addition", "subtraction", "multiplication"] = Field("addition", description="what is asked")
    digits: int = Field(2, ge=1, le=1000, description="digits of each number")

    def problem(self, a: int, b: int) -> Problem:
        """a + b, a - b (the larger first) or a * b."""
        if self.operation == "subtraction":
            a, b = max(a, b), min(a, b)
        sign, answer = {
            "addition": ("+", a + b),
            "subtraction": ("-", a - b),
            "multiplication": ("*", a * b),
        }[self.operation]
        prompt = self.prompt.render(f"{a} {sign} {b}")
        return Problem(f"{a}{sign}{b}", prompt, answer, self.prompt.prefill, {"a": a, "b": b})
