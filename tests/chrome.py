"""Headless Chromium over its debugging pipe: open a page, click, type, look, and hear what it complains of."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
COMPLAINTS = {"Runtime.exceptionThrown", "Log.entryAdded"}
TIMEOUT_S = 120


class Chrome:
    """One tab, offline. Attributes: `requests`, addresses asked for; `complaints`, errors and warnings of the page."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_read, self.out = os.pipe()
        self.back, to_write = os.pipe()
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={profile}", "about:blank"]
        # Chromium listens on 3 and answers on 4; a child of Python keeps its numbers, so that a shell moves them
        wiring = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command]
        self.process = subprocess.Popen(wiring, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.held, self.number, self.session = b"", 0, None
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the debugging protocol; what happens meanwhile is kept."""
        self.number += 1
        told: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        told |= {"sessionId": self.session} if self.session else {}
        os.write(self.out, json.dumps(told).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self.number:
                assert "error" not in heard, heard
                return dict(heard["result"])

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self.held:
            new = os.read(self.back, 1 << 20)
            assert new, "Chromium is gone"
            self.held += new
        line, _, self.held = self.held.partition(b"\0")
        heard: dict[str, Any] = json.loads(line)
        method, about = heard.get("method"), heard.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        if method in COMPLAINTS or (method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning")):
            self.complaints.append(json.dumps(about)[:500])
        return heard

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file from disk, on a screen of `width` x `height`."""
        phone = width < 500
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=path.resolve().as_uri())
        self.until(lambda: self.js("document.readyState") == "complete" and self.js("location.protocol") == "file:")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, css: str, nth: int = 0) -> None:
        """A real click in the middle of an element."""
        found = f"document.querySelectorAll({json.dumps(css)})[{nth}]"
        self.js(f"{found}.scrollIntoView({{block: 'center', inline: 'center'}})")
        middle = "(({x, y, width, height}) => [x + width / 2, y + height / 2])"
        box = self.js(f"{middle}({found}.getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Tab, Enter or a space."""
        text = {"Enter": "\r", "Tab": "", " ": " "}[key]
        for kind in ("keyDown", "keyUp"):
            code = {"Enter": 13, "Tab": 9, " ": 32}[key]
            self("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The visible part, as PNG."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot")["data"]))

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something that takes the browser a moment."""
        end = time.monotonic() + TIMEOUT_S
        while not holds():
            assert time.monotonic() < end, "the browser did not come that far"
            time.sleep(0.02)

    def close(self) -> None:
        """End the browser."""
        self.process.terminate()
        self.process.wait(30)
        os.close(self.out)
        os.close(self.back)
