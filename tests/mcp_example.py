"""A server for tests, by the SDK's own high-level class: python mcp_example.py [die|garbage|silent]"""

import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("example")


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("it broke")


@server.tool()
def hang() -> str:
    """Takes long."""
    time.sleep(30)
    return "late"


@server.tool()
def die() -> str:
    """Ends the server."""
    os._exit(3)


if __name__ == "__main__":
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    if how == "garbage":
        print("this is no message", flush=True)
        sys.exit(0)
    if how == "silent":
        time.sleep(60)
    server.run("stdio")
