"""The documentation site: builds without a warning or a network, has every page, and says what each watcher means."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src")}
# A proxy that nothing answers at: whatever wants the network at build fails.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


class Targets(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if (tag, name) in LOADED:
                self.loaded.append(value)
            if (tag, name) == ("a", "href"):
                self.linked.append(value)
            if name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, **OFFLINE, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Targets]:
    return {path: Targets(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_has_its_place_in_the_navigation(site: Path, built: dict[Path, Targets]) -> None:
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    expected = {path.with_name("index") if path.stem == "README" else path.with_suffix("") for path in pages}
    there = {site / link for link in built[site / "index.html"].linked if not urlsplit(link).scheme}
    named = {path.resolve().relative_to(site.resolve()).with_suffix("") for path in there if path.suffix == ".html"}
    assert expected <= named
    assert {Path(page) for page in ("contributing", "changelog", "shipped", "examples")} <= named


def test_nothing_is_loaded_from_elsewhere(built: dict[Path, Targets]) -> None:
    for path, page in built.items():
        for target in page.loaded:
            assert not urlsplit(target).netloc, f"{path.name}: {target}"
            if path.name != "404.html":  # whose addresses begin at the root of a server
                assert (path.parent / unquote(urlsplit(target).path)).exists(), f"{path.name}: {target}"


def test_links_lead_to_a_page_and_a_place_on_it(built: dict[Path, Targets]) -> None:
    for path, page in built.items():
        for link in page.linked if path.name != "404.html" else ():
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in built:
                anchors = built[target].anchors | {"__top", ""}
                assert unquote(parts.fragment) in anchors, f"{path.name}: {link}"


def test_a_page_that_nobody_named_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "site")
    import hooks

    for name in ("index.md", "new.md", "deep/other.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("# Page\n")
    config = type("Config", (), {"nav": [{"Start": ["index.md"]}], "docs_dir": str(tmp_path)})
    assert hooks.on_config(config).nav == [{"Start": ["index.md"]}, {"More": ["deep/other.md", "new.md"]}]


def messages(source: Path) -> list[str]:
    """Every line that a file stops or warns with, `…` for what is put into it."""
    found = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("RunStopped", "log.warning"):
            parts = getattr(node.args[0], "values", [node.args[0]])
            text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)
            found.append(re.sub(r"%(\.0f|[sdg])", "…", text).replace("%%", "%"))
    return found


@pytest.mark.parametrize("message", messages(ROOT / "src/tessera/training/sentinels.py"))
def test_what_a_watcher_says_has_its_heading_in_the_page_of_failures(message: str) -> None:
    headings = re.findall(r"^### (.*)$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert any(heading in message for heading in headings), message


def test_every_watcher_is_there() -> None:
    assert len(messages(ROOT / "src/tessera/training/sentinels.py")) == 8


def test_the_page_of_failures_quotes_lines_that_are_said() -> None:
    page = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8").partition("## Questions")[0]
    code = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "tessera").rglob("*.py"))
    said = re.sub(r"\{[^{}]*\}|%[sdg%]|%\.0f", "…", re.sub(r'"\s+f?"', "", code))
    for heading in re.findall(r"^### (.*)$", page, re.MULTILINE):
        longest = max(re.split(r"…|[()%]", heading), key=len).strip()
        assert longest in said, heading
