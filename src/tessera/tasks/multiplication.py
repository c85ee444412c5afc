"""Multiplication of two numbers, asked as in 2504.20834 App. A.1."""

from __future__ import annotations

from tessera.core.types import Problem
from tessera.tasks.generated import GeneratedTask
from tessera.tasks.prompts import PromptFormat


class Multiplication(GeneratedTask):
    """Multiplication of two generated numbers, step by step in a chat (2504.20834 App. A.1)."""

    prompt: PromptFormat = PromptFormat(
        style="chat",
        system="You are a helpful AI assistant.",
        template="What's {question}? Don't use a calculator.",
        prefill="Let's break this problem down step by step.",
    )

    def problem(self, a: int, b: int) -> Problem:
        """What's a multiplied by b?"""
        prompt = self.prompt.render(f"{a} multiplied by {b}")
        return Problem(f"{a}*{b}", prompt, a * b, self.prompt.prefill, {"a": a, "b": b})
