from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tessera.core.errors import UserError
from tessera.tasks.options import check_signature, keys, read_options


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    style: str = "plain"


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int
    inner: Inner = Inner()
    kind_name: str = Field("a", alias="kind")


def test_options_become_the_model() -> None:
    read = read_options(Outer, {"size": 3, "inner": {"style": "chat"}, "kind": "b"}, "task x")
    assert (read.size, read.inner.style, read.kind_name) == (3, "chat", "b")
    assert keys(Outer) == ["size", "inner", "kind"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "task x needs the option 'size'"),
        ({"sise": 3}, r"unknown option of task x 'sise' \(did you mean 'size'\?\)"),  # not: size is missing
        (
            {"size": 1, "inner": {"stile": 1}},
            r"unknown option of task x 'inner.stile' \(did you mean 'style'\?\)",
        ),
        ({"size": "many"}, "task x: size = 'many': Input should be a valid integer"),
        ({"size": 1, "inner": {"style": 3}}, "task x: inner.style = 3: Input should be a valid string"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        read_options(Outer, options, "task x")
    assert "\n" not in str(raised.value)


def test_signatures() -> None:
    def function(a: int, *, b: int = 0) -> None: ...

    def open_ended(a: int, **more: int) -> None: ...

    check_signature(function, {"a": 1, "b": 2}, "task x")
    check_signature(open_ended, {"a": 1, "z": 2}, "task x")
    with pytest.raises(UserError, match="unknown option of task x 'c'"):
        check_signature(function, {"a": 1, "c": 2}, "task x")
    with pytest.raises(UserError, match="task x needs the option 'a'"):
        check_signature(open_ended, {"z": 2}, "task x")
