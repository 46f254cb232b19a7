"""The page of a report: its structure, read by a parser; browsers have tests of their own."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from erasekit.reporting.page import Page, render
from tests.reporting.results import METHODS, NASTY, bench_result, pictures, report, run_result

VOID = {"meta", "img", "input", "br", "hr", "link"}
LINKING = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"}


class Tree(HTMLParser):
    """Elements with their attributes and text, and whether each was closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], list[str]]] = []
        self.stack: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"not closed: {[tag for tag, _ in self.stack]}"

    def handle_starttag(self, tag, attributes) -> None:
        text: list[str] = []
        self.found.append((tag, {k: v or "" for k, v in attributes}, text))
        if tag not in VOID:
            self.stack.append((tag, text))

    def handle_startendtag(self, tag, attributes) -> None:
        self.found.append((tag, {k: v or "" for k, v in attributes}, []))

    def handle_endtag(self, tag) -> None:
        opened, _ = self.stack.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}>"

    def handle_data(self, data) -> None:
        for _, text in self.stack:
            text.append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and text of all such elements."""
        return [
            (own, " ".join("".join(text).split()))
            for name, own, text in self.found
            if name == tag and all(own.get(k) == v for k, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def page() -> Page:
    return report()


@pytest.fixture(scope="module")
def tree(page: Page) -> Tree:
    return Tree(page.html)


def test_the_same_report_gives_the_same_bytes(page: Page) -> None:
    assert report().html == page.html


def test_nothing_is_fetched(page: Page, tree: Tree) -> None:
    for tag, attributes, _ in tree.found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in LINKING & set(attributes):
            assert attributes[name].startswith(("#", "data:image/webp;base64,")), attributes[name]
    styles = "".join(text for _, text in tree.all("style"))
    attributes = "".join(own.get("style", "") for _, own, _ in tree.found)
    assert "@import" not in styles
    for target in re.findall(r"url\(([^)]*)\)", styles + attributes):
        assert target.startswith("#")


def test_the_policy_allows_its_one_script_and_no_network(page: Page, tree: Tree) -> None:
    (policy,) = (o["content"] for o, _ in tree.all("meta") if "http-equiv" in o)
    scripts = re.findall(r"<script>(.*?)</script>", page.html, re.S)
    assert len(scripts) == len(tree.all("script")) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert "connect-src" not in rules
    assert not [own for _, own, _ in tree.found if any(name.startswith("on") for name in own)]


def test_names_stand_as_text(page: Page, tree: Tree) -> None:
    assert "<b>" not in page.html
    assert not tree.all("b")
    assert [text for _, text in tree.all("h4") if text == f"castle {NASTY} held-out"]
    assert [own for own, _ in tree.all("img") if own["alt"].startswith(f"castle {NASTY}, noise 1")]
    assert [text for _, text in tree.all("li") if text.endswith(f"RuntimeError: {NASTY}")]
    assert [text for _, text in tree.all("option") if text == NASTY]


def test_ids_are_unique_and_what_refers_to_them_finds_them(tree: Tree) -> None:
    ids = [own["id"] for _, own, _ in tree.found if "id" in own]
    assert len(ids) == len(set(ids))
    for _, own, _ in tree.found:
        for name in ("href", "xlink:href", "aria-labelledby", "data-for"):
            if name in own and not own[name].startswith("data:"):
                assert own[name].removeprefix("#") in ids
        for target in re.findall(r"url\(#([^)]*)\)", str(own)):
            assert target in ids


def test_tables_have_captions_scopes_and_full_rows(page: Page, tree: Tree) -> None:
    assert len(tree.all("caption")) == len(tree.all("table")) >= 8
    assert all(own["scope"] in ("col", "row", "rowgroup") for own, _ in tree.all("th"))
    for html in re.findall(r"<table.*?</table>", page.html, re.S):
        table = Tree(html)
        columns = len([own for own, _ in table.all("th") if own["scope"] == "col"])
        for row in re.findall(r"<tr data-item.*?</tr>", html, re.S):
            assert len(re.findall(r"<t[hd] ", row)) == columns


def test_the_un_erased_model_stands_first_with_erasure_beside_cost(page: Page) -> None:
    html = re.search(r'<table id="s1-bench".*?</table>', page.html, re.S)
    assert html
    table = Tree(html[0])
    heads = [text for own, text in table.all("th", scope="col")]
    assert [head.split()[0] for head in heads[:4]] == ["method", "ESR-1", "alignment", "delta"]
    assert "higher is better" in heads[1]
    assert "lower is better" in heads[3]
    groups = html[0].split("<tbody>")[1:]
    for group in groups:
        names = [
            text for _, text in Tree(f"<i>{group.split('</tbody>')[0]}</i>").all("th", scope="row")
        ]
        assert [name.split()[0] for name in names] == list(METHODS)
    pinned = [own for own, _ in table.all("tr") if "data-pinned" in own]
    assert len(pinned) == len(groups) == 2
    best = [text for own, text in table.all("td") if "best" in own["class"].split()]
    assert best == ["2.00 [0.75, 3.25] best", "3.00 [1.75, 4.25] best"]


def test_methods_are_compared_at_matched_erasure_too(page: Page) -> None:
    html = re.search(r'<table id="s1-between-matched".*?</table>', page.html, re.S)
    assert html
    table = Tree(html[0])
    assert [text.split()[0] for _, text in table.all("th", scope="col")] == [
        *("verdict", "erased", "at", "difference", "p")
    ]
    for text in ("gumbel harms less there", "church", "90 %", "-7.00", "0.004"):
        assert text in html[0]
    (plain,) = re.findall(r'<table id="s1-comparisons".*?</table>', page.html, re.S)
    assert "at ESR-1" not in plain


def test_cells_are_sorted_by_their_numbers(page: Page) -> None:
    html = re.search(r'<table id="s1-concepts".*?</table>', page.html, re.S)
    assert html
    cells = [(own.get("data-sort"), text) for own, text in Tree(html[0]).all("td")]
    numbers = [(float(sort), text) for sort, text in cells if sort]
    assert len(numbers) == 12
    for value, text in numbers:
        assert float(text.split("[")[0].rstrip("† ")) == round(value, 2)
    assert sum("†" in text for _, text in numbers) == 6


def test_pictures_are_lazy_labelled_and_the_ones_that_were_given(page: Page, tree: Tree) -> None:
    images = [own for own, _ in tree.all("img")]
    assert len(images) == page.images == 2 * (2 + 1) * len(METHODS) + 1
    for own in images:
        assert own["alt"]
        assert own["loading"] == "lazy"
    first = Image.open(io.BytesIO(base64.b64decode(images[0]["src"].partition(",")[2])))
    assert first.size == (int(images[0]["width"]), int(images[0]["height"])) == (32, 32)
    assert images[0]["alt"].endswith("noise 1, before")
    assert images[1]["alt"].endswith(f"after none erased {NASTY}")


def test_figures_are_drawings_with_words_for_those_who_can_not_see_them(tree: Tree) -> None:
    drawn = tree.all("svg")
    labels = [own["aria-label"] for own, _ in tree.all("div", role="img")]
    assert len(drawn) == len(labels) == 2 + 2 + 2
    assert "gumbel, ESR-1 94 %, delta 2.00 [0.75, 3.25]" in labels[0]
    texts = {text for _, text in tree.all("text")}
    assert {"base", "none", "gumbel"} <= texts


def test_it_says_how_to_reproduce_and_what_the_numbers_mean(tree: Tree) -> None:
    codes = [text for _, text in tree.all("code")]
    assert "erasekit bench --concepts '<b>&\"x\",church'" in codes
    assert "erasekit erase --concept church" in codes
    assert "erasekit report my-store my-run" in codes
    said = dict(zip(*([text for _, text in tree.all(tag)] for tag in ("dt", "dd")), strict=True))
    assert said["model hash"] in ("ab" * 32, "ef" * 32)
    assert said["scorer: weights"] == "cd" * 32
    assert said["version of torch"]
    assert "same starting noise" in said["delta"]
    assert "1 or 10" in [text for _, text in tree.all("td")]


def test_what_was_found_is_said_in_words(tree: Tree) -> None:
    paragraphs = [text for _, text in tree.all("p")]
    assert (
        f"Erasing {NASTY}, gumbel harms held-out concepts least: delta 2.00 [0.75, 3.25] at "
        "ESR-1 94 % (un-erased: 10 %)." in paragraphs
    )
    assert f"About {NASTY}." in paragraphs
    assert "Only 2 images." in paragraphs


def test_the_trace_of_a_run_names_what_was_preserved(page: Page) -> None:
    html = re.search(r'<table id="s2-adversaries".*?</table>', page.html, re.S)
    assert html
    rows = [text for _, text in Tree(html[0]).all("tr")][1:]
    assert rows == ["castle church 10 0 18", f"{NASTY} church 10 1 19"]
    assert 'id="s2-trace"' in page.html


def test_pictures_stay_within_their_limit_and_what_is_missing_is_said() -> None:
    whole = render([bench_result()])
    sizes = [len(own["src"]) for own, _ in Tree(whole.html).all("img")]
    limit = sum(sizes) * 2 // 3
    some = render([bench_result()], limit=limit)
    kept = [own for own, _ in Tree(some.html).all("img")]
    assert 0 < len(kept) < len(sizes)
    assert sum(len(own["src"]) for own in kept) <= limit
    assert some.left_out > 0
    assert "--max-megabytes" in some.html
    erased = [own for own in kept if own["alt"].startswith((NASTY, "church"))]
    assert erased, "erased concepts come before those that should stay"
    none = report(limit=0)
    assert not Tree(none.html).all("img")
    assert none.left_out == 4


def test_large_pictures_are_made_smaller() -> None:
    result = bench_result()
    concept = replace(result.galleries["church"][0], images={"base": pictures(2, edge=600)})
    page = render([replace(result, galleries={"church": [concept]})])
    assert {own["width"] for own, _ in Tree(page.html).all("img")} == {"256"}


def test_a_run_without_measures_or_history_says_so() -> None:
    bare = replace(run_result(), measures=None, history=[], sheets={})
    tree = Tree(render([bare], title="Mine").html)
    assert "Nothing was measured in this run." in [text for _, text in tree.all("p")]
    assert [text for _, text in tree.all("h1")] == ["Mine"]
    assert not tree.all("svg")


def test_missing_numbers_are_dashes_that_are_not_sorted() -> None:
    result = bench_result()
    nan = float("nan")
    rows = [
        replace(row, delta=replace(row.delta, value=nan, low=nan, high=nan))
        for row in result.summary.rows
    ]
    summary = replace(result.summary, rows=tuple(rows), overall=())
    html = render([replace(result, summary=summary)]).html
    table = re.search(r'<table id="s1-bench".*?</table>', html, re.S)
    assert table
    assert "nan" not in table[0].lower()
    assert re.search(r'<td class="number whole">-</td>', table[0])
