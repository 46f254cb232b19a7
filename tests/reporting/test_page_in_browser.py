"""The page of a report in headless Chromium: it opens, sorts, filters and shows, on any screen.

Skipped where playwright or Debian's chromium is missing; `nox -s browser` has the former.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import CHROMIUM, FLAGS
from tests.reporting.results import METHODS, NASTY, report

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed; `nox -s browser` installs it"
)

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}; apt-get install chromium"
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report().html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def open_page(browser, file: Path) -> Iterator[Any]:
    """Opens the page on a screen; at the end nothing was fetched, logged or thrown."""
    complaints: list[str] = []
    pages = []

    def do(screen: dict[str, int], **options: Any):
        page = browser.new_page(viewport=screen, **options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith(("file:", "data:"))
                else complaints.append(request.url)
            ),
        )
        page.goto(file.as_uri())
        pages.append(page)
        return page

    yield do
    for page in pages:
        page.close()
    assert complaints == []


def names(page: Any, table: str) -> list[str]:
    """The first cells of the rows that are seen."""
    rows = page.locator(f"#{table} tr[data-item]:visible > :first-child")
    return [text.strip() for text in rows.all_inner_texts()]


def test_a_head_sorts_better_first_and_the_other_way_when_pressed_again(open_page) -> None:
    page = open_page(WIDE)
    table = page.locator("#s1-bench")
    head = table.locator("thead th", has_text="delta [95 %] held-out")
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page, "s1-bench") == [
        *("base", "gumbel", "none"),
        *("base", "gumbel", "none (1 failed)"),
    ]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page, "s1-bench")[:3] == ["base", "none", "gumbel"]
    other = table.locator("thead th", has_text="ESR-1")
    other.locator("button").click()
    assert (other.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == (
        "descending",
        "none",
    )


def test_numbers_are_sorted_as_numbers(open_page) -> None:
    page = open_page(WIDE)
    page.locator("#s1-concepts thead th", has_text="none").locator("button").click()
    cells = page.locator("#s1-concepts tbody tr td:nth-child(2)").all_inner_texts()
    values = [float(cell.split("[")[0].strip().rstrip("†")) for cell in cells]
    assert values == sorted(values) == [0.0, 1.0, 4.0, 5.0, 8.0, 9.0]


def test_tables_are_filtered_by_words_and_choices(open_page) -> None:
    page = open_page(WIDE)
    filters = page.locator('.filters[data-for="s1-concepts"]')
    filters.locator("[data-search]").fill("castle b>&")
    assert names(page, "s1-concepts") == [f"castle {NASTY}"] * 2
    assert filters.locator("output").inner_text() == "2 of 6"
    filters.locator('[data-tag="erased"]').select_option(NASTY)
    assert filters.locator("output").inner_text() == "1 of 6"
    filters.locator("[data-search]").fill("no such concept")
    assert names(page, "s1-concepts") == []


def test_the_un_erased_model_stays_beside_what_was_searched_for(open_page) -> None:
    page = open_page(WIDE)
    page.locator('.filters[data-for="s1-bench"] [data-search]').fill("church gumbel")
    assert names(page, "s1-bench") == ["base", "gumbel"]
    assert page.locator("#s1-bench .group:visible").all_inner_texts() == ["Erased: church"]


def test_pictures_show_and_are_filtered(open_page) -> None:
    page = open_page(WIDE)
    for box in page.locator("details").all():
        box.evaluate("box => { box.open = true }")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
        assert image.evaluate("image => image.naturalWidth") >= 32
    gallery = page.locator("#s1-gallery1")
    assert gallery.locator("img:visible").count() == 3 * len(METHODS)
    page.locator('.filters[data-for="s1-gallery1"] [data-tag="split"]').select_option("held-out")
    assert gallery.locator("article:visible h4").all_inner_texts() == [f"castle {NASTY} held-out"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_on_a_phone(open_page, scheme: str) -> None:
    page = open_page(PHONE, color_scheme=scheme)
    for box in page.locator("details").all():
        box.evaluate("box => { box.open = true }")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    table = page.locator("#s1-bench")
    scroller = table.locator("xpath=..")
    assert table.bounding_box()["width"] > scroller.bounding_box()["width"]
    scroller.evaluate("box => { box.scrollLeft = 200 }")
    first = table.locator("tbody th[scope=row]").first.bounding_box()
    assert first["x"] >= 0, "the rows' names stay in sight"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(open_page, scheme: str) -> None:
    """WCAG's contrast of 4.5, for ordinary, faint and marked text."""
    page = open_page(WIDE, color_scheme=scheme)
    script = """element => {
        const luminance = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
            .map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        let ground = element;
        while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)")
            ground = ground.parentElement;
        const [a, b] = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor]
            .map(luminance).sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    }"""
    for selector in ("h1", "h2", ".overline", ".remark", ".badge", ".note", "td.best", "a"):
        assert page.locator(f"{selector}:visible").first.evaluate(script) >= 4.5, selector


def test_without_scripts_everything_is_there_and_nothing_pretends(browser, file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=WIDE)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator("#s1-bench tr[data-item]:visible").count() == 6
    assert page.locator(".filters:visible").count() == 0
    assert page.locator("thead button").count() == 0
    context.close()
