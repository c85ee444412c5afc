"""The python tool: code in, what it prints out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tessera.environments.sandbox import Sandbox
from tessera.environments.tool import text_argument, text_parameters


class PythonTool:
    """Runs code in a sandbox of its own (tessera.environments.sandbox); nothing is kept between calls."""

    name = "python"
    main = "code"
    description = "Runs Python code and returns what it prints. There is no network and no file."
    parameters: Mapping[str, Any] = text_parameters("code", "the code to run")

    def __init__(self, sandbox: Sandbox | None = None) -> None:
        self.sandbox = sandbox or Sandbox()
        _ = self.sandbox.interpreter  # a machine without one says so before an episode begins

    def call(self, arguments: Mapping[str, Any], limit: float) -> str:
        """See Tool. An exception of the code is a result: its traceback."""
        return self.sandbox.run(text_argument(arguments, self.main), limit)

    def close(self) -> None:
        """Nothing is open between calls."""
