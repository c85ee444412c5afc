"""What the site has beyond the pages of docs/: files of the repository as pages, and links to them.

A page links to a file where it lies, as on any page of a repository. What lies outside docs/ has a page here too:
CONTRIBUTING.md, CHANGELOG.md, and for each of recipes/, examples/ and benchmarks/ a page with its files, one a heading.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
COPIES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # a file, and its page
LISTS = {"recipes": "shipped.md", "examples": "examples.md", "benchmarks": "benchmarks.md"}  # a folder, and its page
SHOWN = {".yaml": "yaml", ".py": "python"}
LINK = re.compile(r"(\]\()(?![a-z]+:)([^)#\s]+)((?:#[^)]*)?\))")
LAST = "More"  # where pages come that the navigation does not name


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation, so that a page that was just written has its place."""
    named = set(_named(config.nav))
    there = {path.relative_to(config.docs_dir).as_posix() for path in Path(config.docs_dir).rglob("*.md")}
    rest = sorted(there - named)
    if rest:
        config.nav = [*(config.nav or []), {LAST: rest}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of what lies outside docs/."""
    for source, page in COPIES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for folder, page in LISTS.items():
        files.append(File.generated(config, page, content=_listing(folder)))
    for path in (ROOT / "benchmarks" / "results").iterdir():
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages of what they name."""
    origin = {own: source for source, own in COPIES.items()}.get(page.file.src_uri)
    folder = "" if origin else posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def led(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[2]))
        there = _page_of(target)
        if there is None:
            return found[0]
        path, _, anchor = there.partition("#")
        link = posixpath.relpath(path, posixpath.dirname(page.file.src_uri) or ".")
        return f"{found[1]}{link}{'#' + anchor + ')' if anchor else found[3]}"

    return LINK.sub(led, markdown)


def _page_of(target: str) -> str | None:
    """The page, in docs/, of a file of the repository; None where it has none."""
    folder, _, name = target.partition("/")
    if target in COPIES:
        return COPIES[target]
    if folder == "docs":
        return name
    if target.startswith("benchmarks/results/"):
        return target.removeprefix("benchmarks/")
    if folder in LISTS and Path(name).suffix in SHOWN:
        return f"{LISTS[folder]}#{_anchor(name)}"
    return None


def _anchor(name: str) -> str:
    return re.sub(r"[^\w-]+", "-", Path(name).with_suffix("").as_posix()).lower()


def _listing(folder: str) -> str:
    """A page with every file of a folder as code, under a heading with the anchor of its name."""
    files = [path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SHOWN]
    files.sort(key=lambda path: (len(path.relative_to(ROOT).parts), path))  # the outermost first
    parts = [f"# {folder.capitalize()}\n\n{len(files)} files of the folder `{folder}/`, as they are."]
    for path in files:
        name = path.relative_to(ROOT / folder)
        title = name.with_suffix("").as_posix() if folder == "recipes" else name.as_posix()
        text = path.read_text(encoding="utf-8").rstrip()
        parts.append(f"## `{title}` {{ #{_anchor(name.as_posix())} }}\n\n````{SHOWN[path.suffix]}\n{text}\n````")
    return "\n\n".join(parts) + "\n"


def _named(nav: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav or ()
    return [page for part in inner for page in _named(part)]
