"""Small files, small functions, few arguments, few options."""

import ast
import statistics

import pytest


def body_lines(function):
    """Lines from the first statement after the docstring to the end; 0 for a docstring alone."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def positional(function):
    """Parameters that may be given by position, without self or cls."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    return len([n for i, n in enumerate(names) if not (i == 0 and n in ("self", "cls"))])


def config_fields(sources):
    """Fields of every pydantic model of the package, inherited ones included, by class name."""
    classes = {n.name: n for s in sources for n in ast.walk(s.tree) if isinstance(n, ast.ClassDef)}

    def parents(node):
        return [b.id for b in node.bases if isinstance(b, ast.Name)]

    def is_model(name):
        return name == "BaseModel" or (name in classes and any(map(is_model, parents(classes[name]))))

    def fields(name):
        if name not in classes:
            return set()
        annotated = [n for n in classes[name].body if isinstance(n, ast.AnnAssign)]
        own = {n.target.id for n in annotated if "ClassVar" not in ast.dump(n)}
        return own.union(*(fields(p) for p in parents(classes[name])))

    return {name: fields(name) for name in classes if is_model(name)}


def test_no_file_is_long(sources):
    assert [(s.path, n) for s in sources if (n := len(s.text.splitlines())) > 500] == []


def test_no_function_is_long(sources):
    long = [(s.path, f.name, n) for s in sources for f in s.functions() if (n := body_lines(f)) > 60]
    assert long == []


def test_most_functions_are_short(sources):
    assert statistics.median(body_lines(f) for s in sources for f in s.functions()) <= 8


def test_no_function_takes_many_positional_arguments(sources):
    many = [(s.path, f.name, n) for s in sources for f in s.functions() if (n := positional(f)) > 6]
    assert many == []


def test_no_configuration_has_many_fields(sources):
    fields = config_fields(sources)
    assert fields["GRPOConfig"] == {"std", "eps", "clip_low", "clip_high", "beta", "aggregation", "max_tokens"}
    assert {name: len(f) for name, f in fields.items() if len(f) > 20} == {}


def test_a_paper_is_read_in_two_minutes(sources):
    long = [(s.path, n) for s in papers(sources) if (n := len(s.text.splitlines())) >= 120]
    assert long == []


def papers(sources):
    """Files of algorithms/ that register one."""
    return [s for s in sources if s.path.startswith("algorithms/") and "\n@register(" in s.text]


@pytest.mark.parametrize(
    ("code", "lines", "arguments"),
    [
        ("def f(a, b, /, c, *, d): return 1", 1, 3),
        ("def f(self, a):\n    '''Doc.'''\n    x = 1\n\n    return x", 3, 1),
        ("def f():\n    '''Doc.\n\n    More.\n    '''", 0, 0),
        ("async def f(cls, a=1, *b):\n    return (\n        1\n    )", 3, 1),
    ],
)
def test_sizes_are_measured_as_meant(code, lines, arguments):
    function = ast.parse(code).body[0]
    assert (body_lines(function), positional(function)) == (lines, arguments)
