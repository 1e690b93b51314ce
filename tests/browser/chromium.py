"""Debian's Chromium, driven by Playwright; no browser is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, Request, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
MISSING = f"{CHROMIUM} is missing: install it (Debian: apt-get install chromium)"
SWITCHES = (
    "--no-sandbox",  # root cannot have one, and the pages are ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run a browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """Errors and warnings in the console of a page, and its requests to other hosts."""

    def __init__(self, page: Page, address: str) -> None:
        self.found: list[str] = []
        self._host = urlsplit(address).netloc
        page.on("console", lambda one: self._log(one.type, one.text))
        page.on("pageerror", lambda error: self.found.append(f"exception: {error}"))
        page.on("request", self._see)

    def _log(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and "net::ERR_" not in text:  # the server of a page may be stopped
            self.found.append(f"console {kind}: {text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")) and urlsplit(request.url).netloc != self._host:
            self.found.append(f"request to {request.url}")
