"""What `tessera index` and `tessera tools serve` do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from tessera.core.errors import UserError
from tessera.environments.mcp_server import make_server, serve_http, serve_stdio
from tessera.environments.retrieval.dense import NO_PROMPTS, Prompts
from tessera.environments.retrieval.index import ABOUT, build
from tessera.environments.retrieval.passages import Progress, read_passages
from tessera.environments.settings import EnvironmentSettings, tools_of
from tessera.environments.syntax import Result
from tessera.environments.tool import Call
from tessera.policy.folders import whole_folder
from tessera.recipe import apply_overrides
from tessera.rollout.toolbox import Toolbox
from tessera.tasks.data import locate
from tessera.tasks.options import read_options
from tessera.tasks.sources import Source

EVERY = 10.0  # seconds between lines of progress


class Address(NamedTuple):
    """Where tools are served over HTTP, and the environment variable of the token that callers need."""

    host: str
    port: int
    token_env: str | None


def make_index(
    corpus: str, out: Path, dense: str | None, force: bool, progress: Progress, prompts: Prompts = NO_PROMPTS
) -> int:
    """Index the passages of a file, whole or not at all; how many there are."""
    if any(prompts) and dense is None:
        raise UserError("--query-prompt and --passage-prompt go with --dense, and would do nothing without")
    if out.exists() and not force:
        raise UserError(f"{out} is there already: delete it with --force, or give another --out")
    if out.exists() and not (out / ABOUT).is_file():
        raise UserError(f"{out} is no index, and --force deletes nothing else")
    passages = read_passages(read_options(Source, {"file": corpus}, "the corpus").rows({}))
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(out, replace=True) as folder:
        build(folder, passages, dense, progress, prompts)
    return len(passages)


def embedding_lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Progress:
    """A line now and then about the passages that are embedded, and one in the end."""
    began = said = clock()

    def told(done: int, passages: int) -> None:
        nonlocal said
        now = clock()
        if done == passages or now - said >= EVERY:
            said = now
            say(f"embedded {done} of {passages} passages at {now - began:.0f} s")

    return told


def serve_tools(named: Sequence[str], address: Address | None, version: str, say: Callable[[str], None]) -> None:
    """Serve the tools that `key=value` words name, on standard input and output or at an address, which is said."""
    data: dict[str, Any] = apply_overrides({}, [word if "=" in word else f"{word}={{}}" for word in named])
    limits: dict[str, Any] = {key: data.pop(key) for key in ("seconds", "at_once") if key in data}
    settings = read_options(EnvironmentSettings, {"tools": data, **limits}, "the tools")
    token = None
    if address is not None and address.token_env is not None and not (token := os.environ.get(address.token_env)):
        raise UserError(f"the environment variable {address.token_env} holds no token")
    tools = tools_of(settings.tools, locate)
    toolbox = Toolbox(tools, settings.seconds, settings.at_once)

    def run(call: Call) -> tuple[str, bool]:
        answered: Future[list[Result]] = Future()
        toolbox.submit([call], answered.set_result)
        (result,) = answered.result()
        return result.text, result.failure is not None

    try:
        server = make_server(tools, run, version)
        if address is None:
            serve_stdio(server)
        else:
            serve_http(server, address.host, address.port, token, say)
    finally:
        toolbox.close()
