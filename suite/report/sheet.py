"""What every page of the suite is made of: one style, light and dark, and a promise to load nothing.

A page is one file without addresses: style and script are inside, images are data. Its content security policy makes
the browser hold it to that, and runs no script but the one whose digest it names, whatever a record or a sample says.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import cache
from html import escape
from pathlib import Path


@cache
def asset(name: str) -> str:
    """Text of a style sheet or script beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: markup.
        style: CSS beyond sheet.css.
        script: JavaScript, run once the body is there; without it, the page may run none.
    """
    allowed = f"'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>{escape(title)}</title>'
        f"<style>{asset('sheet.css')}{style}</style>\n<body>{body}\n"
        + (f"<script>{script}</script>" if script else "")
        + "</body></html>\n"
    )
