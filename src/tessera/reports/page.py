"""report.html: one self-contained page of a run, finished or not, which depends on the run folder's content alone.

Its only script is the package's own, allowed by its hash; what a model wrote is data to it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tessera.reports import credit
from tessera.reports.charts import charts, stage_of, time_split
from tessera.reports.samples import choose
from tessera.reports.summary import Row, mean, of_kind, summarise, values
from tessera.reports.svg import Chart, bar_chart, line_chart
from tessera.reports.text import cut, duration, percent, short, visible

NOT_MEASURED = ("kind", "step", "stage", "stage_index", "seconds")
LONGEST = 4000  # characters shown of a prompt or a completion
LARGEST, LEAST = 2_900_000, 200_000  # bytes of a page; what the credit view has of them at least
SCRIPTS = ("values.js", "tokens.js", "trie.js", "view.js")
_DATA = "\0data\0"  # stands for the data of the credit view; a NUL never gets into a page


@dataclass(frozen=True)
class Card:
    """A headline number: what it is, the number, and what to know beside it."""

    label: str
    value: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; `legend` names the series and their shape (`line`, `dot`, `bar`)."""

    title: str
    unit: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()


def render(
    *,
    name: str,
    rows: Sequence[Row],
    completions: Iterable[Row],
    recipe: Mapping[str, Any],
    recipe_text: str,
    environment: Mapping[str, Any],
    summary: Mapping[str, Any] | None,
    groups: credit.Rows = (),
    methods: Mapping[str, credit.Method] | None = None,
    version: str = "",
) -> str:
    """The page as HTML text, from the parts of a run folder. Without a summary it is made from the rows there are.

    `groups` are the rows of groups.jsonl; `methods` are shown beside the run's own. With a `version` the page asks the
    server that gave it for newer ones.
    """
    told = summary or summarise(rows, status="", **_named(recipe))
    has_groups = bool(version) or len(groups) > 0
    html = TEMPLATES.get_template("report.html.j2").render(
        name=name,
        told=told,
        status=told["status"] or f"unfinished, {told['steps']} steps so far",
        cards=_cards(told),
        figures=[*_figures(charts(rows, recipe.get("published"))), *_time_figure(rows)],
        evaluations=of_kind(rows, "eval"),
        stages=list(_stages(rows)),
        numbers=[(kind, list(_numbers(of_kind(rows, kind)))) for kind in ("rl", "sft") if of_kind(rows, kind)],
        samples=choose(completions),
        recipe_text=recipe_text,
        environment=list(_flat(environment)),
        credit=_parts() if has_groups else None,
        policy=_policy(has_groups, live=bool(version)),
        version=version,
    )
    return _with_groups(html, credit.of_stages(recipe), groups, methods or {}) if has_groups else html


def _with_groups(
    html: str, trained: Mapping[str, str], groups: credit.Rows, methods: Mapping[str, credit.Method]
) -> str:
    """The page with as many groups as fit."""
    found = credit.view(groups, trained, methods, max(LEAST, LARGEST - len(html.encode())))
    return html.replace(f"{_DATA}count", _count(found.shown, found.recorded)).replace(_DATA, found.json)


def _count(shown: int, recorded: int) -> str:
    if not recorded:
        return "No group is recorded yet."
    groups = "1 recorded group" if recorded == 1 else f"{recorded} recorded groups"
    return groups + (", all shown." if shown == recorded else f", {shown} shown, evenly spread: more would not fit.")


@cache
def _parts() -> dict[str, Markup]:
    """The files of the credit view, as they stand in the package."""
    folder = resources.files("tessera.reports") / "view"
    css, html, *scripts = ((folder / name).read_text(encoding="utf-8") for name in ("view.css", "view.html", *SCRIPTS))
    script = '(() => {\n"use strict";\n' + "\n".join(scripts) + "})();\n"
    parts = {"css": css, "html": html, "script": script, "data": _DATA, "count": f"{_DATA}count"}
    return {name: Markup(text) for name, text in parts.items()}


def _policy(scripted: bool, live: bool) -> str:
    """The content security policy: nothing from elsewhere, and no script but ours."""
    rules = ["default-src 'none'", "style-src 'unsafe-inline'"]
    if scripted:
        digest = base64.b64encode(hashlib.sha256(_parts()["script"].encode()).digest()).decode()
        rules.append(f"script-src 'sha256-{digest}'")
    return "; ".join([*rules, "connect-src 'self'"] if live else rules)


def _cards(told: Mapping[str, Any]) -> list[Card]:
    tokens = told["tokens"]
    cards = [_accuracy_card(told["accuracy"], told["gain"])]
    if tokens["contributing_per_example"] is not None:
        share = tokens["contributing"] / tokens["generated"] if tokens["generated"] else None
        note = f"{percent(share)} of the tokens generated" if share is not None else "none generated"
        cards.append(Card("Contributing tokens per example", short(tokens["contributing_per_example"]), (note,)))
        scored = f"{short(tokens['scored'])} positions through the vocabulary head"
        cards.append(Card("Tokens generated", short(tokens["generated"]), (scored,)))
    cards.append(Card("Steps", str(told["steps"]), (duration(told["seconds"]),)))
    return cards


def _accuracy_card(accuracy: Mapping[str, Any], gain: Mapping[str, Any] | None) -> Card:
    if not accuracy:
        return Card("Accuracy", "–", ("not evaluated yet",))
    if not gain:
        label = list(accuracy)[-1]
        return Card("Accuracy", percent(accuracy[label]["value"]), (_interval(label, accuracy[label]),))
    ends = [(label, accuracy[label]) for label in (gain["from"], gain["to"])]
    change = f"{100 * gain['difference']:+.1f} points"
    if gain["ci"]:
        low, high = gain["ci"]
        change += f", 95 % interval {100 * low:+.1f} to {100 * high:+.1f}, paired"
    value = " → ".join(percent(end["value"]) for _, end in ends)
    return Card("Accuracy", value, (change, *(_interval(label, end) for label, end in ends)))


def _interval(label: str, accuracy: Mapping[str, Any]) -> str:
    low, high = accuracy["ci"]
    between = "" if low is None or high is None else f" {percent(low)} to {percent(high)}"
    return f"{label}:{between}, n = {accuracy['n']}"


def _figures(drawn: Iterable[Chart]) -> Iterator[Figure]:
    for index, chart in enumerate(drawn):
        legend = tuple((series.name, "dot" if series.marks else "line") for series in chart.series)
        yield Figure(chart.title, chart.unit, Markup(line_chart(chart, f"chart{index}")), legend)


def _time_figure(rows: Sequence[Row]) -> Iterator[Figure]:
    split = time_split(rows)
    if split:
        legend = tuple((name, "bar") for name, _ in split[0][1])
        yield Figure(
            "Where the time goes", "seconds a step", Markup(bar_chart("Time of a step", split, "time")), legend
        )


def _stages(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """The table of stages: what each did, from its first tenth of steps to its last."""
    for (_, stage), group in groupby((row for row in rows if row["kind"] != "eval"), key=stage_of):
        steps = list(group)
        measure = "loss" if steps[0]["kind"] == "sft" else "reward/mean"
        found = values(steps, measure)
        tenth = max(1, len(found) // 10)
        yield {
            "stage": stage,
            "kind": steps[0]["kind"],
            "steps": f"{steps[0]['step']}–{steps[-1]['step']}",
            "measure": measure,
            "first": mean(found[:tenth]),
            "last": mean(found[-tenth:]),
            "contributing": mean(values(steps, "tokens/contributing_per_example")),
            "seconds": sum(values(steps, "time/step")),
        }


def _numbers(rows: Sequence[Row]) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Each measured key with its first, last, mean, least and greatest value."""
    for key in dict.fromkeys(key for row in rows for key in row if key not in NOT_MEASURED):
        found = [value for value in values(rows, key) if isinstance(value, int | float)]
        if found:
            yield key, (found[0], found[-1], sum(found) / len(found), min(found), max(found))


def _named(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a run without a summary is of, as far as its recipe says so in the usual places."""
    stages = [stage for stage in recipe.get("stages") or [recipe] if isinstance(stage, Mapping)]
    names = [_name(stage.get("algorithm")) or _name(stage) for stage in stages]
    return {
        "algorithm": " → ".join(name for name in names if name),
        "model": _name(recipe.get("model")),
        "task": _name(recipe.get("task")),
    }


def _name(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value or "")
    return next((str(value[key]) for key in ("name", "id", "path", "kind") if value.get(key)), "")


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", "–" if item is None else str(item)


def _shown(value: Any) -> Any:
    """What every `{{ }}` of the template passes through, before it is HTML-escaped."""
    return value if isinstance(value, Markup) else visible(value)


TEMPLATES = Environment(
    loader=PackageLoader("tessera.reports"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters.update(percent=percent, short=short, duration=duration, cut=lambda text: cut(text, LONGEST))
