"""Functions and classes of a file of one's own."""

from pathlib import Path

import pytest

from tessera.core.errors import UserError
from tessera.core.user_code import beside, find_in_file


def function(named, path=None):
    return find_in_file(named, "function", callable, path)


def test_a_function_is_found_and_two_files_of_one_name_do_not_meet(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(f"def value(): return {value}\n")
    assert [function(f"{tmp_path / folder}/own.py:value")() for folder in "ab"] == [1, 2]
    assert function("elsewhere.py:value", str(tmp_path / "b" / "own.py"))() == 2


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("def value(): ...", "valeu", "value"),  # the nearest name
        ("value = 3", "value", "value"),
        ("def value(: ...", "value", "line 1 is not Python"),
        ("import there_is_no_such_package", "value", "cannot be imported"),
    ],
)
def test_what_is_wrong_with_it_is_one_line(tmp_path, text, name, says):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=says) as error:
        function(f"{tmp_path}/own.py:{name}")
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="there is no file "):
        function(f"{tmp_path}/own.py:value")
    (tmp_path / "own.txt").write_text("")
    with pytest.raises(UserError, match="cannot be imported as a Python file"):
        function(f"{tmp_path}/own.txt:value")


def test_an_error_of_the_file_itself_comes_through(tmp_path):
    (tmp_path / "own.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        function(f"{tmp_path}/own.py:value")


def test_a_file_is_looked_up_here_and_then_beside_the_recipe(tmp_path, monkeypatch):
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    for folder in (recipes, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert beside("own.py:f", recipes) == "own.py:f"
    (recipes / "own.py").touch()
    assert beside("own.py:f", recipes) == f"{recipes / 'own.py'}:f"
    assert beside("own.py:f", None) == "own.py:f"
    (here / "own.py").touch()
    assert beside("own.py:f", recipes) == "own.py:f"
    assert Path("own.py").is_file()
