"""What the pages of this project are made of: one HTML file each, no request to anywhere, light and dark. A
script stands in the page, and its hash in the content security policy: no other one runs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from minigtn.pages.figures import FIGURE, PALETTES, Panel, cursors, svg

CSS = """
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: auto; padding: 32px 16px }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 }
h2 { font-size: 1.1rem; margin: 0 0 8px }
p { margin: 8px 0 0; color: var(--soft) }
header { margin-bottom: 16px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 16px; min-width: 0; margin-bottom: 16px }
.grid { display: grid; gap: 0 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)) }
.numbers { display: flex; flex-wrap: wrap; gap: 8px 48px }
.numbers small { font-size: 1.1rem; font-weight: 400; color: var(--soft) }
.numbers b { display: block; font-size: 2.6rem; line-height: 1.15; white-space: nowrap }
.taught b { color: var(--taught) }
.real b { color: var(--real) }
.note { border-left: 4px solid var(--real); padding-left: 12px; color: var(--ink) }
.scroll { overflow-x: auto }
.plot { position: relative; max-width: 560px; margin: auto }
picture img { display: block; width: 100%; max-width: 560px; height: auto; margin: auto }
table { border-collapse: collapse; font-size: .86rem; width: 100% }
th { text-align: left; font-weight: 500; color: var(--soft) }
.columns { columns: 300px; column-gap: 32px }
.columns table, .columns div { break-inside: avoid }
.columns table { margin-bottom: 20px }
.columns td, .columns th { padding: 3px 0; vertical-align: top }
.columns th { padding-right: 12px; white-space: nowrap }
.columns td { text-align: right; overflow-wrap: anywhere }
.columns tr { border-bottom: 1px solid var(--line) }
.heat td, .heat th { padding: 5px 8px; text-align: right; font-variant-numeric: tabular-nums }
.heat td[style] { background: color-mix(in srgb, var(--real) calc(var(--heat) * 55%), transparent) }
.heat .best { outline: 2px solid var(--real); outline-offset: -2px; font-weight: 700 }
"""


def document(title: str, body: str, css: str = "", script: str = "") -> str:
    """The whole page; ``body`` is HTML, the title plain text. A ``script`` runs once the body is there."""
    if "</script" in script or "<!--" in script:
        raise ValueError("a script that stands in a page cannot hold '</script' or '<!--'")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{hashed}'" if script else ""
    tag = f"<script>{script}</script>" if script else ""
    light, dark = (
        "".join(f"--{name}: {colour}; " for name, colour in PALETTES[theme].items())
        for theme in ("light", "dark")
    )
    themes = (
        f":root {{ color-scheme: light dark; {light}}} @media (prefers-color-scheme: dark) "
        f"{{ :root {{ {dark}}} }}"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'{allowed}; base-uri 'none';
  form-action 'none'">
<title>{escape(title)} | minigtn</title><link rel="icon" href="data:,">
<style>{themes}{CSS}{css}</style></head>
<body><main>{body}</main>{tag}</body></html>
"""


def card(title: str, body: str, caption: str, aside: str = "") -> str:
    """A section; title, caption and the note aside are plain text, the body is HTML."""
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="card">{heading}{body}<p>{escape(caption)}</p>{note(aside)}</section>'


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def table(rows: dict[str, Any]) -> str:
    """Names and values."""
    texts = {
        name: " ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value)
        for name, value in rows.items()
    }
    cells = (
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in texts.items()
    )
    return f"<table>{''.join(cells)}</table>"


def curves(
    title: str,
    panels: list[Panel],
    xlabel: str,
    caption: str,
    ticks: dict[int, str] | None = None,
    follow: Sequence[float] = (),
) -> str:
    """A card with curves. A script can move a line over them, to the places on the x-axis that ``follow``
    names."""
    alt = " and ".join(panel.ylabel for panel in panels) + f" against {xlabel}"
    moving = cursors(panels, xlabel, ticks, follow) if follow else None
    return figure(title, lambda palette: svg(panels, xlabel, palette, ticks), alt, caption, moving)


def figure(
    title: str, draw: Callable[[dict[str, str]], bytes], alt: str, caption: str, moving: Any = None
) -> str:
    """A card with one picture, drawn as SVG by ``draw(palette)`` for light and for dark pages, and the
    sentence that says what to see. ``moving``: what :func:`minigtn.pages.figures.cursors` gives."""
    light, dark = (uri("svg+xml", draw(PALETTES[theme])) for theme in ("light", "dark"))
    wide, high = (f"{96 * inches:.0f}" for inches in FIGURE)
    picture = f"""<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" width="{wide}" height="{high}" alt="{escape(alt)}"></picture>"""
    data = f' data-cursors="{escape(json.dumps(moving))}"' if moving else ""
    return card(title, f'<div class="plot"{data}>{picture}</div>', caption)


def uri(kind: str, content: bytes) -> str:
    """An image as the address that stands for it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
