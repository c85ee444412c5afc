import pytest

from tessera.core.errors import UserError
from tessera.core.types import Message
from tessera.tasks.arithmetic import Arithmetic
from tessera.tasks.registry import load_task


@pytest.mark.parametrize(
    ("operation", "pair", "prompt", "answer"),
    [
        ("addition", (34, 58), "Problem: 34 + 58\nAnswer:", 92),
        ("subtraction", (58, 34), "Problem: 58 - 34\nAnswer:", 24),
        ("subtraction", (34, 58), "Problem: 58 - 34\nAnswer:", 24),  # the larger comes first
        ("multiplication", (34, 58), "Problem: 34 * 58\nAnswer:", 1972),  # 30 * 58 + 4 * 58 = 1740 + 232
    ],
)
def test_operations(operation: str, pair: tuple[int, int], prompt: str, answer: int) -> None:
    task = Arithmetic.model_validate({"operation": operation})
    problem = task.problem(*pair)
    assert (problem.prompt, problem.answer, problem.prefill) == (prompt, answer, "")
    assert task.reward(problem, f" {answer}") == 1.0
    assert task.reward(problem, f" {answer + 1}") == 0.0


def test_the_prompt_can_become_a_chat() -> None:
    prompt = {"style": "chat", "system": "Compute.", "template": "{question} = ?"}
    loaded = load_task({"name": "arithmetic", "digits": 1, "prompt": prompt})
    problem = loaded.train[0]
    a, b = problem.metadata["a"], problem.metadata["b"]
    assert problem.prompt == (Message("system", "Compute."), Message("user", f"{a} + {b} = ?"))


def test_an_unknown_operation_names_the_known() -> None:
    with pytest.raises(UserError, match="operation = 'add': Input should be 'addition', 'subtraction' or"):
        load_task({"name": "arithmetic", "operation": "add"})
