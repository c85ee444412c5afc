"""Who may import whom, and what an import may load."""

import configparser
import logging
import subprocess
import sys
import tomllib
from contextlib import contextmanager

import pytest
from importlinter.cli import lint_imports


def exists(root, module):
    """Whether a module of the package is there; other packages are taken as they come."""
    if module.split(".")[0] != "tessera":
        return True
    path = root / "src" / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def check(root, path, contracts):
    """Run import-linter over contracts whose modules all exist; the exit code, 0 when all are kept."""
    ini = configparser.ConfigParser()
    ini["importlinter"] = {"root_package": "tessera", "include_external_packages": "True"}
    for i, contract in enumerate(contracts):
        sources = [m for m in contract["source_modules"] if exists(root, m)]
        forbidden = [m for m in contract["forbidden_modules"] if exists(root, m)]
        if sources and forbidden:
            section = {**contract, "source_modules": "\n" + "\n".join(sources)}
            section["forbidden_modules"] = "\n" + "\n".join(forbidden)
            ini[f"importlinter:contract:{i}"] = {k: str(v) for k, v in section.items()}
    with path.open("w") as file:
        ini.write(file)
    with logging_as_it_was():
        return lint_imports(config_filename=str(path), no_cache=True, no_logo=True)


@contextmanager
def logging_as_it_was():
    """import-linter configures logging for the process and disables every logger that is there, ours too."""
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    before = [(logger, logger.disabled) for logger in loggers]
    try:
        yield
    finally:
        for logger, disabled in before:
            logger.disabled = disabled


@pytest.fixture
def contracts(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_the_layers_are_kept(root, contracts, tmp_path, capsys):
    code = check(root, tmp_path / "contracts.ini", contracts)
    assert code == 0, capsys.readouterr().out


def test_a_broken_contract_would_be_noticed(root, tmp_path, capsys):
    upside_down = {
        "name": "upside down",
        "type": "forbidden",
        "source_modules": ["tessera.algorithms"],
        "forbidden_modules": ["tessera.core"],
    }
    assert check(root, tmp_path / "contracts.ini", [upside_down]) != 0
    assert "upside down BROKEN" in " ".join(capsys.readouterr().out.split())


def test_every_layer_has_a_contract(contracts, root):
    covered = {m.split(".")[1] for contract in contracts for m in contract["source_modules"]}
    layers = {path.parent.name for path in (root / "src" / "tessera").glob("*/__init__.py")}
    assert layers <= covered


HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate")


@pytest.mark.parametrize(
    "module", ["tessera", "tessera.core.types", "tessera.core.errors", "tessera.core.trie", "tessera.tasks"]
)
def test_importing_loads_nothing_heavy(module):
    code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_package_offers_its_names_lazily():
    code = "import sys, tessera; f = tessera.score_group; print(f.__name__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["score_group", "True"]


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import tessera

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tessera.nonsense


def test_modules_that_tests_import_by_name_are_told_apart(root):
    """The helpers of tests and of benchmarks are on one path: of two with one name the first hides the other."""
    helpers = [path.stem for folder in ("tests", "benchmarks") for path in (root / folder).glob("*.py")]
    assert sorted(helpers) == sorted(set(helpers))
