"""The page of `erasekit ui` in headless Chromium, on the shipped model: a picture changes.

Skipped where gradio, playwright or Debian's chromium is missing; `nox -s browser` has two of them.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chromium import CHROMIUM, FLAGS

pytest.importorskip("gradio", reason="gradio is not installed; `nox -s browser` installs it")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.icons,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"there is no {CHROMIUM}"),
]
MINUTES = 60_000  # of milliseconds, each


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of `erasekit ui` in a process of its own."""
    command = [sys.executable, "-m", "erasekit", "ui", "--port", "0"]
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
        assert found
        yield found[0]
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) in (0, 130)


@pytest.fixture
def tab(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        elsewhere: list[str] = []
        page.on(
            "request",
            lambda request: (
                elsewhere.append(request.url)
                if not request.url.startswith((address, "data:", "blob:"))
                else None
            ),
        )
        page.goto(address)
        yield page
        browser.close()
        assert elsewhere == []


def test_erasing_a_church_changes_its_picture(tab: Any, tmp_path: Path) -> None:
    tab.get_by_label("Concept").fill("church")
    tab.get_by_label("Concept").press("Enter")
    tab.get_by_label("Method").fill("none")
    tab.get_by_label("Method").press("Enter")
    tab.get_by_role("button", name="Erase").click()
    tab.get_by_text("no longer show the concept").wait_for(timeout=5 * MINUTES)
    pictures = tab.locator('img[src*="file="]')
    before, after = (pictures.nth(i).evaluate(PIXELS) for i in (0, 1))
    assert len(before) == len(after) > 0
    assert before != after
    assert tab.get_by_text("delta").count() > 0
    tab.get_by_label("Attack", exact=True).fill("paraphrase")
    tab.get_by_label("Attack", exact=True).press("Enter")
    tab.get_by_role("button", name="Attack it").click()
    tab.get_by_text("is the ceiling").wait_for(timeout=5 * MINUTES)
    with tab.expect_download(timeout=2 * MINUTES) as waiting:
        tab.get_by_role("button", name="Export").click()
        tab.locator('a[download*="church"]').first.click(timeout=2 * MINUTES)
    waiting.value.save_as(tmp_path / "edit.safetensors")
    assert (tmp_path / "edit.safetensors").stat().st_size > 10_000


def test_a_tab_that_asks_too_early_is_told(tab: Any) -> None:
    tab.get_by_role("button", name="Draw before and after").click()
    tab.get_by_text("Erase something first").wait_for(timeout=MINUTES)


def test_a_taken_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "erasekit", "ui", "--port", port]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert f"Port {port}" in told.stderr
    assert "Traceback" not in told.stderr


PIXELS = """image => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
}"""
