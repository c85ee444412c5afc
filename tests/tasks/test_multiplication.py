from tessera.core.types import Message
from tessera.tasks.multiplication import Multiplication
from tessera.tasks.registry import load_task


def test_the_prompt_is_the_papers() -> None:
    problem = Multiplication().problem(123, 456)
    assert problem.prompt == (
        Message("system", "You are a helpful AI assistant."),
        Message("user", "What's 123 multiplied by 456? Don't use a calculator."),
    )
    assert problem.prefill == "Let's break this problem down step by step."
    assert (problem.id, problem.answer) == ("123*456", 56088)  # 123 * 400 + 123 * 56 = 49200 + 6888


def test_operands_have_three_digits_and_the_answer_is_their_product() -> None:
    loaded = load_task({"name": "multiplication"})
    operands = [(p.metadata["a"], p.metadata["b"]) for p in loaded.test]
    assert len(operands) == 3000
    assert all(101 <= n <= 999 for pair in operands for n in pair)
    assert [a * b for a, b in operands] == [p.answer for p in loaded.test]


def test_the_last_integer_is_graded() -> None:
    task = Multiplication()
    problem = task.problem(123, 456)
    assert task.reward(problem, f"{problem.prefill} 123 x 400 = 49,200; in all 56,088.") == 1.0
    assert task.reward(problem, f"{problem.prefill} 56088 is 123 x 456") == 0.0


def test_one_key_of_the_prompt_can_be_changed() -> None:
    loaded = load_task({"name": "multiplication", "prompt": {"system": None, "prefill": ""}})
    (message,) = loaded.train[0].prompt
    assert message.content.endswith("Don't use a calculator.")  # the template is still the task's
    assert loaded.train[0].prefill == ""


def test_an_answer_is_the_last_integer() -> None:
    task = Multiplication(digits=1)
    problem = task.problems("test")[0]
    assert [task.answer_of(problem, text) for text in ("2 * 3 = 6.0", "that is 06", "no")] == ["6", "6", None]
