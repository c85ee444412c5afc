"""The one text that a tool takes."""

import pytest

from scripted import Echo
from tessera.environments.tool import Tool, ToolFailed, text_argument, text_parameters


def test_the_argument_is_a_text_and_the_only_one() -> None:
    assert text_argument({"query": " who "}, "query") == " who "
    for wrong in ({}, {"query": ""}, {"query": "  "}, {"query": 3}, {"text": "who"}, {"query": "who", "k": 5}):
        with pytest.raises(ToolFailed) as failed:
            text_argument(wrong, "query")
        assert failed.value.reason == "arguments" and "query" in str(failed.value)


def test_a_schema_names_the_argument_and_no_other() -> None:
    schema = text_parameters("query", "what to look for")
    assert schema["required"] == ["query"] and schema["additionalProperties"] is False
    assert schema["properties"]["query"] == {"type": "string", "description": "what to look for"}


def test_a_class_with_these_members_is_a_tool() -> None:
    assert isinstance(Echo(), Tool) and not isinstance(object(), Tool)
