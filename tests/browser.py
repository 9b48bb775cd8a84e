"""Headless Chromium for tests, through chromedriver's HTTP interface (the WebDriver protocol)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest


class Browser:
    """A window."""

    def __init__(self, driver: str, chromium: str) -> None:
        self.process = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        line = next(line for line in self.process.stdout if "successfully on port" in line)
        self.base = f"http://127.0.0.1:{int(''.join(c for c in line.rsplit('port', 1)[1] if c.isdigit()))}"
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1200,900",
        ]
        options = {"binary": chromium, "args": arguments}
        always = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": always}})["sessionId"]
        self.base += f"/session/{session}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def open(self, url: str) -> None:
        self.ask("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", {"script": script, "args": []})

    def errors(self) -> list[str]:
        """What the console has said since the last call, warnings and worse."""
        entries = self.ask("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def close(self) -> None:
        self.ask("DELETE", "")
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait(browser: Browser, script: str, seconds: float = 30.0) -> Any:
    """The script's answer, once it is not empty."""
    end = time.monotonic() + seconds
    while not (answer := browser.run(script)) and time.monotonic() < end:
        time.sleep(0.05)
    return answer


def started() -> Iterator[Browser]:
    """A browser while the generator is suspended; skips the test where there is none."""
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if driver is None or chromium is None:
        pytest.skip("needs Chromium and its driver (Debian's packages chromium and chromium-driver)")
    browser = Browser(driver, chromium)
    yield browser
    browser.close()
