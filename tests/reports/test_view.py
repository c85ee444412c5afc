"""The credit view in a real browser: what is coloured, shown, reached by keys, and how fast."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tessera.core.errors import UserError
from tessera.reports.credit import Credit, Method
from tessera.reports.run import RunFolder
from tessera.reports.summary import Row
from tessera.reports.text import visible

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<!--<script>",
    "]]>\"'`${alert(1)}",
    "NUL:\x00",
    "\u202eright to left\u2066",
    "\u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f680",
    "\ud800",
    "\\u003c{{ 7 * 7 }}\u2028",
    "\n\t",
    "",
]
POS, NEG = "rgb(116, 170, 255)", "rgb(255, 171, 74)"  # --pos and --neg of view.css, in light


def halved(row: Row) -> Credit:
    """A method that selects every first token, with weight 0.5 and advantage 1 - 2 x reward."""
    sizes = [len(rollout["ids"]) for rollout in row["rollouts"]]
    signs = [1 - 2 * rollout["reward"] for rollout in row["rollouts"]]
    first = [[1, *[0] * (n - 1)] for n in sizes]
    return Credit(
        [[sign] * n for sign, n in zip(signs, sizes, strict=True)],
        [[0.5 * on for on in line] for line in first],
        first,
        [[0.1 * sign * on for on in line] for sign, line in zip(signs, first, strict=True)],
    )


def refusing(row: Row) -> Credit:
    raise UserError("needs <b>entropy</b>")


@pytest.fixture
def write(tmp_path: Path, made: SimpleNamespace) -> Callable[..., str]:
    """Writes a run with `rows` of groups.jsonl and its report; returns the URL."""

    def make(*rows: Row, methods: Mapping[str, Method] | None = None) -> str:
        with RunFolder.create(tmp_path / "run", made.recipe, "f", force=True) as run:
            for row in made.all_rows():
                run.log(row)
            run.log_groups(rows)
            return run.write_report(methods).as_uri()

    return make


@pytest.fixture
def two(made: SimpleNamespace) -> list[Row]:
    """Step 21 has a right and a wrong completion; step 30 two groups, one with a tool's answer."""
    right = made.rollout(
        ["The", " answer", "\n", " 42", "<end>"],
        new=[-0.1, -0.2, -0.3, -2.302585, None],
        old=[-0.1, -0.2, -0.3, -2.0, -0.5],
        ref=[-0.1, -0.2, -0.3, -1.0, None],
        advantage=[1.0, 0.5, 0.25, 1.0, 1.0],
        weight=[1.0, 2.0, 0.5, 1.0, None],
        selected=[1, 1, 1, 1, 0],
        push=[0.3, 0.1, 0.0, 0.4, None],
    )
    wrong = made.rollout(["The", " answer", " 7"], reward=0.0, advantage=[-1.0] * 3, push=[-0.1, 0.0, -0.1])
    calls = made.rollout(["look", "found", " it", "so"], sampled=[1, 0, 0, 1], selected=[1, 0, 0, 1])
    return [
        made.group(21, right, wrong),
        made.group(30, calls, made.rollout(["no"], reward=0.0), groups=2),
        made.group(30, wrong, groups=2, group=1, problem_id="other"),
    ]


def classes(page: Any, r: int, m: int = 0) -> list[str]:
    spans = page.locator(f'.tokens[data-r="{r}"][data-m="{m}"] > span')
    return [element.get_attribute("class") or "" for element in spans.element_handles()]


def token(page: Any, r: int, k: int, m: int = 0) -> Any:
    return page.locator(f'.tokens[data-r="{r}"][data-m="{m}"] > span').nth(k)


def background(locator: Any) -> str:
    return str(locator.evaluate("span => getComputedStyle(span).backgroundColor"))


def numbers(page: Any) -> dict[str, list[str]]:
    """The rows of the tables beside a token."""
    rows = page.locator("#credit-tip tbody tr").element_handles()
    return {
        row.query_selector("th").inner_text(): [cell.inner_text() for cell in row.query_selector_all("td")]
        for row in rows
    }


def button(page: Any, name: str) -> Any:
    return page.locator(".bar").get_by_role("button", name=name, exact=True)


def test_tokens_are_coloured_as_the_data_says(write, watched, two) -> None:
    page = watched().open(write(*two))
    # the greatest |advantage| of the group is 1, and eight levels lie on each side of 0
    assert classes(page, 0) == ["p8", "p4", "p2", "p8", "off"]
    assert classes(page, 1) == ["n8 less"] * 3
    assert [background(token(page, r, 0)) for r in (0, 1)] == [POS, NEG]
    assert background(token(page, 0, 4)) == "rgba(0, 0, 0, 0)"
    button(page, "weight").click()
    assert classes(page, 0) == ["q4", "q8", "q2", "q4", "off"]  # from 0 to 2
    button(page, "selection").click()
    assert classes(page, 0) == ["q8"] * 4 + ["off"]
    button(page, "gradient").click()
    # the pushes' sizes add up to 1, the largest is 0.4: 0.3 is level 6 of 8, 0.1 level 2
    assert classes(page, 0) == ["p6", "p2", "", "p8", "off"]
    assert classes(page, 1) == ["n2 less", "", "n2 less"]
    button(page, "probability").click()
    # 1 - p in eighths: e^-0.1 0.10, e^-0.2 0.18, e^-0.3 0.26, 0.1 0.90, and of the sampler e^-0.5 0.39
    assert classes(page, 0) == ["q1", "q1", "q2", "q7", "q3"]


def test_a_token_under_the_pointer_shows_its_numbers(write, watched, two) -> None:
    page = watched().open(write(*two))
    tip = page.locator("#credit-tip")
    assert tip.is_hidden()
    token(page, 0, 3).hover()
    assert tip.is_visible()
    assert tip.locator("b").inner_text() == " 42"
    assert "id 3, token 4 of 5, completion 1" in tip.inner_text()
    # pushes 0.3 + 0.1 + 0.4 + 0.1 + 0.1 = 1; means of the selected tokens: log-prob -4.402585 / 7, advantage -0.25 / 7
    covariance = (-2.3026 + 4.4026 / 7) * (1 + 0.25 / 7)
    shown = numbers(page)
    assert float(shown.pop("covariance")[0]) == pytest.approx(covariance, abs=1e-3)
    assert shown == {
        "policy, last update": ["-2.303", "10 %"],
        "old, first update": ["-2", "13.5 %"],
        "reference": ["-1", "36.8 %"],
        "sampler": ["-0.5", "60.7 %"],
        "entropy, nats": ["1", ""],
        "selected": ["yes"],
        "advantage": ["1"],
        "weight": ["1"],
        "gradient share": ["40 %"],
    }
    token(page, 0, 4).hover()
    assert "policy, last update" not in numbers(page)
    assert (numbers(page)["selected"], numbers(page)["weight"]) == (["no"], ["–"])
    page.mouse.move(5, 5)
    assert tip.is_hidden()


def test_methods_stand_side_by_side_on_the_same_tokens(write, watched, two) -> None:
    page = watched().open(write(*two, methods={"halved": halved, "refusing": refusing}))
    button(page, "halved").click()
    button(page, "refusing").click()
    columns = page.locator(".rollout").first.locator(".columns > div")
    assert [text.split("\n")[0] for text in columns.all_inner_texts()] == [
        "as trained (s_grpo) -1 to 1",
        "halved -1 to 1",
        "refusing",
    ]
    assert "needs <b>entropy</b>" in columns.nth(2).inner_text()
    assert "4 of 5 tokens, 80 % of the gradient" in columns.nth(0).inner_text()
    assert "1 of 5 tokens, 50 % of the gradient" in columns.nth(1).inner_text()
    assert classes(page, 0, 1) == ["n8 less", *["off"] * 4]
    assert classes(page, 1, 1) == ["p8", "off", "off"]
    token(page, 1, 0, 1).hover()
    assert numbers(page)["advantage"] == ["-1", "1"]
    assert numbers(page)["weight"] == ["1", "0.5"]
    button(page, "as trained").click()  # away; one stays at least
    assert columns.count() == 2
    for name in ("refusing", "halved", "halved"):
        button(page, name).click()
    assert columns.count() == 1 and classes(page, 0, 1)


def test_steps_groups_and_tool_turns(write, watched, two) -> None:
    page = watched().open(write(*two))
    assert page.locator("#credit-count").inner_text() == "3 recorded groups, all shown."
    assert page.locator("#credit-step option").all_inner_texts() == ["21 · rl", "30 · rl"]
    page.select_option("#credit-step", "30")
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p30"
    assert classes(page, 0) == ["p8", "given turn", "given", "p8"]
    mark = token(page, 0, 1).evaluate("span => getComputedStyle(span, '::before').content")
    assert mark == '"tool"'
    token(page, 0, 2).hover()
    assert "not written by the policy" in page.locator("#credit-tip").inner_text()
    page.select_option("#credit-group", label="other · mean reward 0 (2 of 2)")
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem other"
    assert page.locator("#credit-on").is_disabled()
    page.locator("#credit-back").click()
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p21"


def test_the_first_group_with_credit_comes_first(write, watched, two, made) -> None:
    silent = made.group(20, made.rollout(["a"], 0.0), made.rollout(["b"], 0.0))
    page = watched().open(write(silent, *two))
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p21"
    page.locator("#credit-back").click()
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem p20"
    assert "The same for every token here." in page.locator("#credit-note").inner_text()


def test_everything_is_reached_by_keys(write, watched, two) -> None:
    page = watched().open(write(*two, methods={"halved": halved}))
    page.locator("#credit-rollouts").focus()

    def place() -> tuple[str, str]:
        at = page.locator(".at")
        return at.evaluate("span => span.parentNode.dataset.r"), at.get_attribute("data-k")

    seen = []
    for key in (
        "ArrowRight",
        "ArrowRight",
        "ArrowDown",
        "End",
        "ArrowRight",
        "ArrowLeft",
        "Home",
        "ArrowUp",
        "ArrowUp",
    ):
        page.keyboard.press(key)
        seen.append(place())
    assert seen == [(r, k) for r, k in zip("001111100", "011221000", strict=True)]
    assert page.locator("#credit-tip").is_visible()
    assert page.locator("#credit-said").inner_text() == "The, advantage 1, gradient share 30 %"
    page.keyboard.press("Escape")
    assert page.locator("#credit-tip").is_hidden()
    page.keyboard.press("3")
    assert button(page, "weight").get_attribute("aria-pressed") == "true"
    page.keyboard.press("m")
    assert button(page, "halved").get_attribute("aria-pressed") == "true"
    assert button(page, "as trained").get_attribute("aria-pressed") == "false"
    for key, problem in ((".", "p30"), ("]", "other"), ("]", "other"), ("[", "p30"), (",", "p21"), (",", "p21")):
        page.keyboard.press(key)
        assert page.locator("#credit-problem").inner_text() == f"Prompt of problem {problem}"


def test_the_place_survives_a_reload(write, watched, two) -> None:
    one = watched()
    page = one.open(write(*two, methods={"halved": halved}))
    for key in ("]", "]", "2", "m"):
        page.keyboard.press(key)
    page.reload()
    one.asked.pop()  # the page itself, again
    assert page.locator("#credit-problem").inner_text() == "Prompt of problem other"
    assert button(page, "gradient").get_attribute("aria-pressed") == "true"
    assert button(page, "halved").get_attribute("aria-pressed") == "true"


def test_the_trie_is_drawn_and_leads_to_its_tokens(write, watched, two) -> None:
    page = watched().open(write(*two))
    branches = page.locator("#credit-drawing .branch")
    # "The answer" is shared; then "\n 42<end>" and " 7" part: (1 + 0) / 2 = 0.5 before, 1 and 0 after
    assert [branch.get_attribute("aria-label") for branch in branches.element_handles()] == [
        "“The answer”: 2 tokens, 2 of 2 completions, mean reward 0.5, advantage 0",
        "“↵ 42<end>”: 3 tokens, 1 of 2 completions, mean reward 1, advantage 0.5",
        "“ 7”: 1 tokens, 1 of 2 completions, mean reward 0, advantage -0.5",
    ]
    paths = branches.locator("path")
    assert paths.evaluate_all("paths => paths.map(path => getComputedStyle(path).stroke)")[1:] == [POS, NEG]
    branches.nth(2).locator("circle").click()
    assert page.locator(".at").inner_text() == " 7"


def test_nothing_that_a_model_writes_breaks_or_runs(write, watched, made) -> None:
    row = made.group(1, made.rollout(HOSTILE), made.rollout(HOSTILE[::-1], reward=0.0), prompt="".join(HOSTILE))
    row["problem_id"] = row["stage"] = HOSTILE[0]
    row["rollouts"][0]["components"] = {HOSTILE[0]: 1.0}
    page = watched().open(write(row, methods={HOSTILE[1]: refusing}))
    assert page.locator("script").count() == 2
    assert page.evaluate("window.hacked") is None
    shown = page.locator('.tokens[data-r="0"] > span').evaluate_all("spans => spans.map(span => span.textContent)")
    by_hand = [visible(text).replace("\n", "↵\n").replace("\t", "⇥\t") or "·" for text in HOSTILE]
    assert shown == by_hand
    assert page.locator("#credit-prompt").evaluate("pre => pre.textContent") == "".join(map(visible, HOSTILE))
    assert page.locator("#credit-problem").inner_text() == f"Prompt of problem {HOSTILE[0]}"


def luminance(colour: Sequence[float]) -> float:
    parts = [c / 255 for c in colour]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2."""
    found = sorted(luminance([float(n) for n in re.findall(r"[\d.]+", colour)[:3]]) for colour in (one, other))
    return (found[1] + 0.05) / (found[0] + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_tokens_can_be_read_on_the_strongest_colours(write, watched, two, scheme: str) -> None:
    page = watched(color_scheme=scheme).open(write(*two))
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance([float(n) for n in re.findall(r"\d+", paper)]) > 0.5) == (scheme == "light")
    strongest = {"p8": "advantage", "n8": "advantage", "q8": "weight"}
    for level, colour in strongest.items():
        button(page, colour).click()
        span = page.locator(f".tokens .{level}").first
        ink = span.evaluate("span => getComputedStyle(span).color")
        assert contrast(ink, background(span)) >= 4.5, level


def test_nothing_sticks_out_of_a_narrow_screen(write, watched, two, made) -> None:
    long = made.group(31, made.rollout(["x" * 300, " y"]), made.rollout(["z"], reward=0.0), problem_id="p" * 200)
    page = watched(viewport={"width": 360, "height": 740}).open(write(*two, long, methods={"halved": halved}))
    for key in ("m", ".", "."):
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    button(page, "as trained").click()
    token(page, 0, 1).hover()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    box = page.locator("#credit-tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360


MEASURED = """async () => {
    const area = document.getElementById("credit-rollouts");
    const begin = performance.now();
    ACT;
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - begin;
}"""


def test_ten_thousand_tokens_answer_within_200_ms(write, watched, made) -> None:
    def long(i: int) -> Any:
        n = range(1250)
        texts, lines = [f" w{k % 97}" for k in n], [((7 * k + i) % 23 - 11) / 11 for k in n]
        return made.rollout(texts, float(i % 2), advantage=lines, push=lines, weight=[k % 5 / 2 for k in n])

    page = watched().open(write(made.group(1, made.rollout(["a"])), made.group(2, *map(long, range(8)))))
    press = "area.dispatchEvent(new KeyboardEvent('keydown', { key: 'KEY', bubbles: true }))"

    def least(act: str, undo: str) -> float:
        """Milliseconds until the next frame is drawn, the least of three: other processes have their turns too."""
        times = []
        for _ in range(3):
            times.append(page.evaluate(MEASURED.replace("ACT", press.replace("KEY", act))))
            page.evaluate(MEASURED.replace("ACT", press.replace("KEY", undo)))
        return min(times)

    took = {"a change of step": least(".", ",")}
    page.keyboard.press(".")
    for i in range(8):
        page.locator(".rollout").nth(i).scroll_into_view_if_needed()
    page.locator(".tokens > span").nth(9_999).wait_for(state="attached")
    assert page.locator(".tokens > span").count() == 10_000
    pairs = {"a change of colour": "21", "the next token": ("ArrowRight", "ArrowLeft"), "the last": ("End", "Home")}
    took |= {name: least(act, undo) for name, (act, undo) in pairs.items()}
    assert {name: time for name, time in took.items() if time >= 200} == {}


def test_what_is_far_below_is_made_when_it_comes_near(write, watched, made) -> None:
    rows = [made.rollout([f" w{i}" for i in range(1500)], float(r % 2)) for r in range(4)]
    page = watched().open(write(made.group(1, *rows)))
    assert page.locator('.tokens[data-r="1"] > span').count() == 1500
    assert page.locator('.tokens[data-r="3"] > span').count() == 0
    page.locator(".rollout").nth(3).scroll_into_view_if_needed()
    page.locator('.tokens[data-r="3"] > span.p8').nth(1499).wait_for(state="attached")
    page.keyboard.press("m")  # drawn anew, from the top
    page.locator("#credit-rollouts").focus()
    for _ in range(4):
        page.keyboard.press("ArrowDown")
    assert page.locator('.tokens[data-r="3"] > span.at').count() == 1  # reached by keys, it is there


def test_a_page_stays_below_three_megabytes_and_says_what_it_left_out(write, watched, made) -> None:
    lines = [i / 7919 % 1 - 0.5 for i in range(4000)]
    texts = [f"word{i}" for i in range(4000)]
    rows = [made.group(step, made.rollout(texts, advantage=lines, new=lines, push=lines)) for step in range(1, 21)]
    url = write(*rows)
    assert 2_000_000 < Path(url.removeprefix("file://")).stat().st_size < 3_000_000
    page = watched().open(url)
    shown = page.locator("#credit-step option").all_inner_texts()
    told = page.locator("#credit-count").inner_text()
    assert told == f"20 recorded groups, {len(shown)} shown, evenly spread: more would not fit."
    assert 10 < len(shown) < 20 and (shown[0], shown[-1]) == ("1 · rl", "20 · rl")
