"""What the pages of this project are made of: one HTML file each, no script, no request to anywhere, light
and dark."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from typing import Any

from minigtn.pages.figures import FIGURE, PALETTES

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
.sheet { --cell: var(--wide); width: auto; margin: auto }
.sheet td { padding: 0 }
.crisp img { image-rendering: pixelated }
@media (max-width: 600px) { .sheet { --cell: var(--phone) } }
.sheet img { background: var(--line); box-shadow: -3px -3px 0 var(--line) }
.sheet img, .steps { display: block; width: calc(var(--n) * var(--cell) * 1px); height: auto }
.sheet th { position: sticky; left: 0; background: var(--card);
  padding: 0 10px 0 0; text-align: right; white-space: nowrap }
.steps { display: flex; text-align: center; color: var(--soft); font-size: .72rem }
.steps span { flex: 1 }
.heat td, .heat th { padding: 5px 8px; text-align: right; font-variant-numeric: tabular-nums }
.heat td { background: color-mix(in srgb, var(--real) calc(var(--heat) * 55%), transparent) }
.heat .best { outline: 2px solid var(--real); outline-offset: -2px; font-weight: 700 }
"""


def document(title: str, body: str, css: str = "") -> str:
    """The whole page; ``body`` is HTML, the title plain text."""
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
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)} | minigtn</title><link rel="icon" href="data:,">
<style>{themes}{CSS}{css}</style></head>
<body><main>{body}</main></body></html>
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


def figure(title: str, draw: Callable[[dict[str, str]], bytes], alt: str, caption: str) -> str:
    """A card with one picture, drawn as SVG by ``draw(palette)`` for light and for dark pages, and the
    sentence that says what to see."""
    light, dark = (uri("svg+xml", draw(PALETTES[theme])) for theme in ("light", "dark"))
    wide, high = (f"{96 * inches:.0f}" for inches in FIGURE)
    picture = f"""<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">
<img src="{light}" width="{wide}" height="{high}" alt="{escape(alt)}"></picture>"""
    return card(title, picture, caption)


def uri(kind: str, content: bytes) -> str:
    """An image as the address that stands for it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
