"""Any data set of the reasoning-gym package: its questions, its prompt, its scorers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache, cached_property
from typing import Any

from pydantic import Field, model_validator

from tessera.core.errors import UserError, unknown
from tessera.core.types import Problem
from tessera.tasks.base import BuiltinTask, Split
from tessera.tasks.data import Row
from tessera.tasks.pool import CheckFailed, CheckPool
from tessera.tasks.prompts import PromptFormat
from tessera.tasks.puzzles import different, in_splits
from tessera.tasks.tags import tagged

SYSTEM = """\
Given a problem, your task is to answer the question by thinking step-by-step in a clear and specific manner.
Once you have thought about the reasoning process, provide the answer in the following format:
<answer>answer here</answer>
Do not explain your reasoning inside the answer tags, provide only the final answer. When an example is provided, you \
should strictly follow the format of the output/answer in that example.
"""  # reasoning_gym.utils.SYSTEM_PROMPTS["default"]
PREFIX = "reasoning_gym:"
CHUNK = 1000  # entries of one seed of the package; some of its sets depend on how many are asked for at once
LONGEST_ANSWER = 10_000  # characters
OURS = ("seed", "size")


class ReasoningGym(BuiltinTask):
    """A data set of the reasoning-gym package, `reasoning_gym:NAME`, with the package's own prompt and scorer.

    The scorer is given what one pair of `<answer>` tags holds; without one, or with more than LONGEST_ANSWER
    characters, a text earns 0. It runs in a process of its own: one that raises, or takes longer than `seconds`, is an
    error of that rollout. A row is an entry of the package: `question`, `answer`, `metadata`.
    """

    prompt: PromptFormat = PromptFormat(style="chat", system=SYSTEM)
    dataset: str = Field(description="the data set's name; written after the colon of the task's")
    options: dict[str, Any] = Field({}, description="options of the data set, as the package names them")
    train_size: int = Field(500, ge=1, description="questions")
    validation_size: int = Field(50, ge=0, description="questions")
    test_size: int = Field(100, ge=0, description="questions")
    seed: int = Field(0, description="which questions are drawn")
    seconds: float = Field(5.0, gt=0, le=600, description="limit of one scoring")

    @model_validator(mode="after")
    def _known(self) -> ReasoningGym:
        registered = _package().factory.DATASETS
        if self.dataset not in registered:
            raise unknown("data set of reasoning_gym", self.dataset, registered)
        what = f"option of {PREFIX}{self.dataset}"
        known = {field.name for field in fields(registered[self.dataset][1])} - set(OURS)
        for name in self.options:
            if name in OURS:
                raise UserError(f"{what}: {name} is the task's own: give train_size, validation_size, test_size, seed")
            if name not in known:
                raise unknown(what, name, known)
        self._made(0, 1)
        return self

    def problems(self, split: Split) -> Sequence[Problem]:
        """The problems of `split`."""
        return self._splits[split]

    def problem_of(self, row: Row) -> Problem:
        """The problem of an entry."""
        question = row.column("question")
        if not isinstance(question, str) or not question.strip():
            raise UserError(f"{row.where}: question = {question!r:.60} must be a text")
        entry = {"question": question, "answer": row.column("answer"), "metadata": row.column("metadata")}
        prompt = self.prompt.render(question)
        return Problem(str(row.column("id")), prompt, entry["answer"], self.prompt.prefill, entry)

    def reward(self, problem: Problem, text: str) -> float:
        """What the package's scorer gives; raises UserError with what it raised, or that it took too long."""
        answer = tagged(text, "answer")
        if answer is None or len(answer) > LONGEST_ANSWER:
            return 0.0
        from tessera.tasks.gym_scorer import packed

        options, entry = json.dumps(self.options), packed(dict(problem.metadata))
        try:
            reply = _pool().run(self.dataset, options, answer, entry, limit=self.seconds)
        except CheckFailed as failure:
            raise UserError(f"the scorer of {self.dataset} gave no score ({failure.reason})") from None
        if "error" in reply:
            raise UserError(f"the scorer of {self.dataset} raised {reply['error']}")
        return float(reply["score"])

    def gold(self, problem: Problem) -> str | None:
        """The entry's answer in its tags; None for the sets whose entries have none."""
        return None if problem.answer is None else f"<answer>{problem.answer}</answer>"

    def corrupted(self, problem: Problem) -> str | None:
        """The answer to another question of the train split."""
        others = (p.answer for p in self.problems("train") if p.answer not in (None, problem.answer))
        other = next(others, None) if problem.answer is not None else None
        return None if other is None else f"<answer>{other}</answer>"

    @cached_property
    def _splits(self) -> dict[Split, tuple[Problem, ...]]:
        sizes: dict[Split, int] = {"test": self.test_size, "validation": self.validation_size, "train": self.train_size}
        entries = different(self._entries(), lambda entry: " ".join(entry["question"].split()), sum(sizes.values()))
        rows = in_splits(entries, sizes)
        return {
            split: tuple(
                self.problem_of(Row(row.where, {**row.values, "id": f"{split}-{n}"})) for n, row in enumerate(found)
            )
            for split, found in rows.items()
        }

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        source = random.Random(f"{PREFIX}{self.dataset}, seed {self.seed}")
        while True:
            dataset = self._made(source.randrange(2**31), CHUNK)
            for position in range(CHUNK):
                yield dataset[position]

    def _made(self, seed: int, size: int) -> Any:
        from tessera.tasks.gym_scorer import RAISED, make

        try:
            return make(self.dataset, self.options, seed, size)
        except RAISED as error:
            raise UserError(f"{PREFIX}{self.dataset} with options {self.options}: {error}") from None


def _package() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ModuleNotFoundError as error:
        if error.name != "reasoning_gym":
            raise
        raise UserError(f"{PREFIX}NAME needs the package: pip install 'tessera-rl[reasoning-gym]'") from None
    return reasoning_gym


@cache
def _pool() -> CheckPool:
    return CheckPool("tessera.tasks.gym_scorer:score")
