"""What a supervised stage learns: gold answers, rows of a file, and what was harvested. Never of a question that an
evaluation asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tessera.core.errors import UserError
from tessera.core.types import Problem
from tessera.policy.forest import Row
from tessera.policy.prompting import check_fits
from tessera.rollout.collect import Collector
from tessera.tasks.base import LoadedTask
from tessera.tasks.data import Row as DataRow
from tessera.tasks.data import locate
from tessera.tasks.rows import RowFormat
from tessera.tasks.sources import read_file
from tessera.tasks.validate import gold_text
from tessera.training.settings import SFTStage

_FORMAT = RowFormat(answer_column="completion")


class Example(NamedTuple):
    """A problem and the text that continues its prompt; where it was sampled, its ids, and which of them the policy
    wrote: what tools said is not learnt."""

    problem: Problem
    text: str
    ids: tuple[int, ...] | None = None
    sampled: tuple[bool, ...] = ()


def examples(task: LoadedTask, settings: SFTStage) -> list[Example]:
    """What is known of the stage before the run: the rows of `data`, or gold answers where it names no source at all.

    Raises UserError for a problem without gold answer, a file that cannot be read as such rows, or a row of it that
    asks what a test or validation problem asks.
    """
    if settings.data is not None:
        return _of_file(settings.data, task)
    return [] if settings.harvest is not None else [_gold(task, problem) for problem in task.train]


def harvested(task: LoadedTask, traces: Iterable[Mapping[str, Any]]) -> list[Example]:
    """Rows of harvest.jsonl; UserError for one that is of no train problem."""
    known = {problem.id: problem for problem in task.train}
    found = []
    for trace in traces:
        if (problem := known.get(trace["problem_id"])) is None:
            raise UserError(f"harvest.jsonl holds a trace of {trace['problem_id']!r}, which is no train problem")
        found.append(Example(problem, trace["completion"], tuple(trace["ids"]), tuple(trace["sampled"])))
    return found


def rows(collector: Collector, learnt: Sequence[Example]) -> list[Row]:
    """Prompts with the tokens to learn planned; the end-of-sequence token closes what was not sampled.

    Raises UserError for a pair that does not fit the model's context.
    """
    policy = collector.policy
    tokenizer: Any = policy.tokenizer
    stop = tokenizer.eos_token_id if tokenizer.eos_token_id in policy.eos_ids else min(policy.eos_ids)
    found = []
    for problem, text, known, sampled in learnt:
        ids = known or (*tokenizer(text, add_special_tokens=False)["input_ids"], stop)
        prompt = collector.prompt_ids(problem)
        check_fits(prompt, len(ids), policy.context_length, problem.id)
        found.append(Row(prompt, ids, tuple(t for t in range(len(ids)) if not sampled or sampled[t])))
    return found


def _gold(task: LoadedTask, problem: Problem) -> Example:
    """The gold answer as a continuation: where neither side brings white space, a space parts plain prompt and it."""
    text = gold_text(task.task, problem)
    if text is None:
        raise UserError(f"problem {problem.id!r} has no gold answer to learn from: give the stage `data`")
    before = problem.prefill or (problem.prompt if isinstance(problem.prompt, str) else " ")
    return Example(problem, text if before[-1:].isspace() or text[:1].isspace() else " " + text)


def _of_file(path: str, task: LoadedTask) -> list[Example]:
    found = []
    asked = {text: problem for problem in (*task.validation, *task.test) for text in _questions(problem)}
    for n, row in enumerate(read_file(locate(path))):
        prompt, completion = _parted(row)
        parted = {**row.values, "prompt": prompt, "completion": completion}
        problem = _FORMAT.problem(DataRow(row.where, parted), f"sft-{n}")
        for text in _questions(problem):
            if text in asked:
                raise UserError(
                    f"{row.where} asks what {asked[text].id!r} asks, which is evaluated: {text!r:.100}; what is learnt "
                    "must come from training rows"
                )
        found.append(Example(problem, completion))
    return found


def _parted(row: DataRow) -> tuple[Any, str]:
    """Prompt and completion of a row of `messages`, the last of which is learnt, or of `prompt` and `completion`."""
    if "messages" not in row.values:
        return row.column("prompt"), _completion(row, row.column("completion"))
    messages = row.values["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise UserError(f"{row.where}: messages = {messages!r:.60} must be a list, at least of a turn and its answer")
    return messages[:-1], _completion(row, messages[-1:])


def _completion(row: DataRow, value: Any) -> str:
    """A text, a number as text, or the text of an assistant's only message."""
    message = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 1 else None
    if isinstance(message, Mapping) and message.get("role") == "assistant":
        value = message.get("content")
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise UserError(f"{row.where} holds nothing to learn: {value!r:.60} must be a text, or an assistant's message")
    return str(value)


def _questions(problem: Problem) -> set[str]:
    """What identifies a question, in any case: the whole prompt, and in a chat the user's words alone."""
    texts = [problem.key]
    if not isinstance(problem.prompt, str):
        texts.append(" ".join(m.content for m in problem.prompt if m.role == "user"))
    return {folded for text in texts if (folded := " ".join(text.casefold().split()))}
