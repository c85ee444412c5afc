import shutil

import pytest

from tessera.environments.python_tool import PythonTool
from tessera.environments.tool import Tool, ToolFailed

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def test_code_in_what_it_prints_out() -> None:
    tool = PythonTool()
    assert isinstance(tool, Tool)
    assert tool.call({"code": "6 * 7"}, 10) == "42"
    assert tool.call({"code": "x = 1"}, 10) == ""
    assert "NameError" in tool.call({"code": "x"}, 10)  # nothing is kept between calls
    with pytest.raises(ToolFailed, match="code"):
        tool.call({"query": "6 * 7"}, 10)
