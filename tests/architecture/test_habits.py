"""Rules that hold in every file of the package."""

import ast
import re

from tessera.algorithms import registered

MAY_CATCH_EVERYTHING = {"rollout/boundary.py"}


def broad_handlers(tree):
    """Lines of `except:`, `except Exception` and `except BaseException`, alone or in a tuple, that swallow something:
    one that ends in a bare `raise` only tidies up."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {k.id for k in kinds if isinstance(k, ast.Name)}
            broad = node.type is None or names & {"Exception", "BaseException"}
            passes_on = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if broad and not passes_on:
                found.append(node.lineno)
    return found


def undocumented(tree):
    """Public classes, functions and methods without a docstring; what a function defines inside is its own."""
    missing = [] if ast.get_docstring(tree) else ["(module)"]

    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and child.name[0] != "_":
                if not ast.get_docstring(child):
                    missing.append(prefix + child.name)
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")

    visit(tree, "")
    return missing


def name_comparisons(tree, names):
    """Lines where something is compared with an algorithm's name."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in names
    ]


def mentions(text, names):
    """Algorithms named in a text, in whatever spelling: T-SPMO, t_spmo."""
    words = set(re.findall(r"[a-z0-9_]+", text.lower().replace("-", "_")))
    return sorted(words & set(names))


def test_everything_is_caught_at_the_boundary_alone(sources):
    found = {s.path: lines for s in sources if (lines := broad_handlers(s.tree))}
    assert {path: lines for path, lines in found.items() if path not in MAY_CATCH_EVERYTHING} == {}


def test_everything_public_says_what_it_is(sources):
    found = {s.path: missing for s in sources if s.text.strip() and (missing := undocumented(s.tree))}
    assert found == {}


def test_the_trainer_knows_no_paper_by_name(sources):
    found = {s.path: m for s in sources if s.path.startswith("training/") and (m := mentions(s.text, registered()))}
    assert found == {}


def test_nothing_branches_on_an_algorithms_name(sources):
    names = set(registered())
    assert {s.path: lines for s in sources if (lines := name_comparisons(s.tree, names))} == {}


def test_every_algorithm_cites_its_paper_and_equation_and_says_how_it_differs(sources):
    files = {s.module: ast.get_docstring(s.tree) for s in sources}
    for name, entry in registered().items():
        text = files[entry.compose.__module__]
        assert re.search(r"arXiv:\d{4}\.\d{5}v\d+", text), f"{name}: arXiv id with its version"
        assert re.search(r"Eq\. \d+", text), f"{name}: equation number"
        assert "Differs from the paper:" in text, name
        assert re.search(r"\n    \S.* = ", text), f"{name}: the equation itself"


def test_the_rules_would_notice():
    code = ast.parse(
        "def f():\n    try: pass\n    except (OSError, Exception): pass\n"
        "class A:\n    '''Doc.'''\n    def g(self): pass\n    def _h(self): pass\n"
        "if x == 'grpo' or y in ('t_spmo',): pass\n"
    )
    assert broad_handlers(code) == [3]
    assert broad_handlers(ast.parse("try: pass\nexcept: pass")) == [2]
    assert broad_handlers(ast.parse("try: pass\nexcept (OSError, ValueError): pass")) == []
    assert broad_handlers(ast.parse("try: pass\nexcept BaseException:\n    close()\n    raise")) == []
    assert undocumented(code) == ["(module)", "f", "A.g"]
    assert name_comparisons(code, {"grpo", "t_spmo"}) == [8, 8]
    assert mentions("# T-SPMO and grpo, not grpo_lambda", ["grpo", "t_spmo"]) == ["grpo", "t_spmo"]
