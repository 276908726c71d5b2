"""Chromium for the tests of web pages: where it is, how it is started, and pictures of pages for the docs."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: install the package chromium")
# Without background networking, so that nothing but the page is asked for.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
FLAGS += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
PATIENCE = 120_000  # milliseconds, on a busy machine
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def keep(page, name):
    """A screenshot, if the variable SCREENSHOTS of the environment names a folder for them."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
