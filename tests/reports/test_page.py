from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pages import metric_keys
from tessera.reports import charts as charts_module
from tessera.reports.run import RunFolder

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> NUL:\x00 {{ 7 * 7 }} \u202e \ud800 &lt;"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each `pre`."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pres: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "pre":
            self.pres.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data: str) -> None:
        if "pre" in self.open:
            self.pres[-1] += data
        if "style" not in self.open:
            self.text += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def read(run: RunFolder) -> Page:
    return Page(run.write_report().read_text(encoding="utf-8"))


def words(page: Page) -> str:
    return " ".join(page.text.split())


def test_a_finished_run_says_what_it_was_and_what_came_of_it(make_run) -> None:
    text = words(read(make_run()))
    assert "demo finished s_grpo · nano · multiplication" in text
    assert "31.0 % → 70.3 % +39.3 points, 95 % interval +32.0 to +46.0, paired" in text
    assert "base: 26.0 % to 36.0 %, n = 300 final: 65.3 % to 75.3 %, n = 300" in text
    # 60 steps of 4800 tokens, of which 2400 contribute
    assert "50.0 % of the tokens generated Tokens generated 288k" in text
    assert "Steps 80 2 min 40 s" in text
    assert "advantage group_normalized" in text
    assert "rl rl 21–80 reward/mean" in text


def test_a_run_that_is_not_finished_is_told_from_its_rows_and_recipe(make_run) -> None:
    text = words(read(make_run(finished=False)))
    assert "demo unfinished, 80 steps so far warm-up → s_grpo · nano · multiplication" in text
    assert "31.0 % → 70.3 % +39.3 points base:" in text


def test_a_run_of_one_evaluation_gives_it_with_its_interval(tmp_path: Path, made) -> None:
    with RunFolder.create(tmp_path / "one", made.recipe, "f") as run:
        run.log(made.evaluation(0, "base", 0.31, (0, "warm-up")))
    assert "Accuracy 31.0 % base: 26.0 % to 36.0 %, n = 300" in words(read(run))


def test_a_run_without_a_row_has_a_page(tmp_path: Path, made) -> None:
    with RunFolder.create(tmp_path / "new", made.recipe, "f") as run:
        page = read(run)
    assert "new unfinished, 0 steps so far" in words(page)
    assert "not evaluated yet" in words(page)
    assert "svg" not in page.tags


def test_why_a_run_stopped_is_said(make_run) -> None:
    with make_run() as run:
        run.write_summary({**(run.summary() or {}), "status": "stopped: mismatch 0.3 > 0.1"})
    assert "demo stopped: mismatch 0.3 > 0.1" in words(read(run))
    assert ("span", {"class": "status stopped"}) in read(run).elements


def test_nothing_a_model_writes_becomes_markup(make_run) -> None:
    page = read(make_run(texts=("plain", HOSTILE)))
    assert not page.tags & {"script", "img", "iframe", "link", "object"}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    shown = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> NUL:␀ {{ 7 * 7 }} ⟨U+202E⟩ ⟨U+D800⟩ &lt;"
    assert shown in [text.strip() for text in page.pres]


def test_names_recipe_and_errors_are_escaped_too(tmp_path: Path, made) -> None:
    evil = "<script>alert(1)</script>\x00"
    recipe = made.recipe + "note: '<script>alert(1)</script>'\n"
    with RunFolder.create(tmp_path / "<i>run", recipe, evil) as run:
        row = made.rl(1) | {"stage": evil, f"reward/{evil}": 0.5}
        run.log(row)
        run.log(row | {"step": 2, "stage": "b", "stage_index": 2})
        run.log(made.evaluation(2, evil, 0.5, (1, evil), split=evil))
        run.log_completions([made.completion(1, 1.0, error=evil, problem_id=evil, components={evil: 1.0}, prompt=evil)])
        run.write_summary({**(run.summary() or {}), **_summary_of(run, evil)})
    page = read(run)
    assert not page.tags & {"script", "i"}
    assert page.text.count("<script>alert(1)</script>") >= 10
    assert "\x00" not in page.text


def test_every_two_evaluations_are_compared_where_there_are_more_than_two(make_run) -> None:
    pair = {"from": "base", "to": "sft", "difference": 0.125, "ci": [-0.02, 0.27]}
    with make_run() as run:
        told = run.summary() or {}
        run.write_summary({**told, "pairs": [pair]})
        assert "What lies between them" not in words(read(run))
        run.write_summary({**told, "pairs": [pair, {**pair, "to": "final"}]})
        assert "base sft +12.5 -2.0 to +27.0 base final +12.5" in words(read(run))


def _summary_of(run: RunFolder, text: str) -> dict[str, object]:
    from tessera.reports.summary import summarise

    return summarise(run.metrics(), algorithm=text, model=text, task=text, status=text, composition=text)


def test_the_page_needs_nothing_from_elsewhere(make_run) -> None:
    run = make_run()
    html = run.write_report().read_text(encoding="utf-8")
    page = Page(html)
    for _, attributes in page.elements:
        assert not {"src", "href", "srcset"} & set(attributes)
    assert "url(" not in html and "@import" not in html
    policy = {"http-equiv": "Content-Security-Policy", "content": "default-src 'none'; style-src 'unsafe-inline'"}
    assert ("meta", policy) in page.elements


def test_the_page_depends_on_the_folder_alone(make_run, tmp_path: Path) -> None:
    run = make_run()
    first = run.write_report().read_bytes()
    assert run.write_report().read_bytes() == first
    shutil.copytree(run.path, tmp_path / "elsewhere" / "demo")
    assert RunFolder.open(tmp_path / "elsewhere" / "demo").write_report().read_bytes() == first


def test_every_chart_can_be_read_without_seeing_it(make_run) -> None:
    page = read(make_run())
    drawings = [attributes for tag, attributes in page.elements if tag == "svg" and "aria-hidden" not in attributes]
    idents = [i for _, attributes in page.elements if (i := attributes.get("id")) and i.endswith(("-title", "-desc"))]
    assert len(drawings) >= 10
    assert len(idents) == len(set(idents)) == 2 * len(drawings)
    for attributes in drawings:
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= set(idents)
    assert "All numbers of the rl steps" in page.text


def test_the_table_of_numbers_has_first_last_mean_least_and_greatest(tmp_path: Path, made) -> None:
    with RunFolder.create(tmp_path / "r", made.recipe, "f") as run:
        for step, value in enumerate((2.0, None, 6.0, 1.0), start=1):
            run.log(made.rl(step) | {"kl": value})
    # mean (2 + 6 + 1) / 3
    assert "kl 2 1 3 1 6" in words(read(run))


def test_a_partial_row_does_not_break_the_page(tmp_path: Path, made) -> None:
    head = {"step": 1, "stage": "rl", "stage_index": 0, "seconds": 1.0}
    with RunFolder.create(tmp_path / "r", made.recipe, "f") as run:
        run.log({"kind": "rl", **head})
        run.log({"kind": "eval", **head})
        run.log_completions([{"step": 1}])
    assert "no reward" in words(read(run))


def test_long_texts_are_cut_and_the_rest_counted(make_run) -> None:
    page = read(make_run(texts=("x" * 5000,)))
    assert "… (1000 more characters)" in page.text


class _Asked(dict):  # type: ignore[type-arg]
    """A row that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked: set[str] = set()

    def get(self, key: str, default: object = None) -> object:
        self.keys_asked.add(key)
        return default


def test_the_rows_made_up_here_have_no_key_that_a_run_does_not_write(made) -> None:
    rows = [made.rl(1), made.sft(1), made.evaluation(0, "base", 0.5, (0, "rl"))]
    for row in rows:
        assert set(row) - {"reward/correct", "reward/format"} <= metric_keys()[row["kind"]]


@pytest.mark.parametrize("curve", [charts_module.REWARD, *charts_module.CURVES], ids=lambda curve: curve.title)
def test_the_page_of_metrics_has_every_key_that_is_drawn(curve: charts_module.Curve) -> None:
    row = _Asked()
    for _, reader in curve.lines:
        reader(row)
    assert row.keys_asked and row.keys_asked <= set().union(*metric_keys().values())
