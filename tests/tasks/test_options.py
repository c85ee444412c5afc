from typing import Annotated, Any, Literal

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


class Circle(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["circle"] = "circle"
    radius: float = Field(1.0, gt=0)


class Square(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["square"] = "square"
    side: float
    inner: Inner | None = None


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    shapes: tuple[Annotated[Circle | Square, Field(discriminator="kind")], ...] = ()
    width: Literal["thin"] | float = "thin"
    colours: list[str] | Literal["none"] = "none"
    pair: tuple[int, int] = (0, 0)
    either: Circle | Square | None = None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # pydantic's locations are shapes.0.square.sied, shapes.0.square.inner.stile, width.literal['thin'], ...
        ({"shapes": [{"kind": "square", "sied": 1}]}, "unknown option of x 'shapes.0.sied' (did you mean 'side'?)"),
        ({"shapes": [{"kind": "circle", "side": 1}]}, "unknown option of x 'shapes.0.side' (known: kind, radius)"),
        (
            {"shapes": [{"kind": "circle"}, {"kind": "square", "side": 1, "inner": {"stile": 1}}]},
            "unknown option of x 'shapes.1.inner.stile' (did you mean 'style'?)",
        ),
        ({"shapes": [{"kind": "square"}]}, "x needs the option 'shapes.0.side'"),
        ({"shapes": [{"kind": "circle", "radius": 0}]}, "x: shapes.0.radius = 0: Input should be greater than 0"),
        ({"shapes": 3}, "x: shapes = 3: Input should be a list"),
        ({"shapes": [{"kind": "square", "side": 1, "inner": 3}]},
         "x: shapes.0.inner = 3: Input should be a mapping of keys"),
        ({"width": "fat"}, "x: width = 'fat': Input should be 'thin' or a valid number, "
         "unable to parse string as a number"),
        ({"colours": 3}, "x: colours = 3: Input should be a list or 'none'"),
        ({"colours": [3]}, "x: colours.0 = 3: Input should be a valid string"),
        ({"pair": [1]}, "x needs the option 'pair.1'"),
        ({"either": {"kind": "circle", "radios": 2}}, "unknown option of x 'either.radios' (did you mean 'radius'?)"),
    ],
)  # fmt: skip
def test_keys_are_those_that_a_person_wrote(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        read_options(Drawing, options, "x")
    assert str(raised.value) == message


def test_signatures() -> None:
    def function(a: int, *, b: int = 0) -> None: ...

    def open_ended(a: int, **more: int) -> None: ...

    check_signature(function, {"a": 1, "b": 2}, "task x")
    check_signature(open_ended, {"a": 1, "z": 2}, "task x")
    with pytest.raises(UserError, match="unknown option of task x 'c'"):
        check_signature(function, {"a": 1, "c": 2}, "task x")
    with pytest.raises(UserError, match="task x needs the option 'a'"):
        check_signature(open_ended, {"z": 2}, "task x")
