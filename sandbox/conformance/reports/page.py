"""A run as one page without any other file: each case with its transcript and its timeline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from sandbox.conformance.reports.document import document
from sandbox.conformance.reports.junit import area_of
from sandbox.conformance.runner import Run

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--pass:#2a7d2a;--fail:#c62828;--xfail:#b26a00;--mute:#8889}
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em}
h1{margin-bottom:0}h2{border-bottom:1px solid var(--line);margin-top:2em}
code,pre{font:13px/1.4 ui-monospace,monospace}pre{overflow:auto;max-height:20em;background:#8881;padding:.6em;margin:.3em 0}
details{margin:.15em 0 .15em 1em}summary{cursor:pointer}table{border-collapse:collapse}
td,th{border:1px solid var(--line);padding:.2em .7em;text-align:left}
.v{font-weight:600;display:inline-block;min-width:4.5em}.pass{color:var(--pass)}.fail,.error,.xpass{color:var(--fail)}
.xfail{color:var(--xfail)}.skip,.disabled{color:var(--mute)}.m{white-space:pre-wrap}
.t{height:1.2em;position:relative;border:1px solid var(--line);border-width:0 1px;margin:.5em 0}
.t i{position:absolute;width:2px;height:100%;background:currentColor;opacity:.7}
"""


def page(run: Run) -> str:
    """HTML, UTF-8."""
    found = document(run)
    name = escape(found["target"]["name"])
    counts = "".join(f"<tr><td>{escape(key)}</td><td>{value}</td></tr>" for key, value in found["counts"].items())
    handlers = escape(", ".join(found["target"]["handlers"]))
    head = (
        f"<h1>{name}</h1><p>lambda-sandbox {escape(found['suite']['version'])}, conformance of a {found['suite']['kind']}: "
        f"{len(found['outcomes'])} cases of {len(found['verdicts'])} requirements in {found['seconds']:.1f} s. "
        f"Handlers: {handlers or 'none'}.</p><table><tr><th>verdict</th><th>cases</th></tr>{counts}</table>"
    )
    body = "".join(_areas(found["outcomes"]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Conformance: {name}</title><style>{_STYLE}</style><body>{head}{body}</body></html>\n"
    )


def write(run: Run, path: Path) -> None:
    """Raises OSError."""
    path.write_text(page(run), "utf-8", "replace")


def _areas(outcomes: list[dict[str, Any]]) -> Iterator[str]:
    area = requirement = ""
    for one in outcomes:
        if area_of(one["requirement"]) != area:
            area = area_of(one["requirement"])
            yield f"<h2>{escape(area)}</h2>"
        if one["requirement"] != requirement:
            requirement = one["requirement"]
            rows = escape(", ".join(one["rows"]))
            yield f"<h3><code>{escape(requirement)}</code></h3>"
            yield f"<p>{one['level']}: {escape(one['text'])} <small>{rows}</small></p>"
        yield _case(one)


def _case(one: dict[str, Any]) -> str:
    verdict = one["verdict"]
    opened = " open" if verdict in ("fail", "xpass", "error") else ""
    title = (
        f'<span class="v {verdict}">{verdict}</span> <code>{escape(one["case"])}</code> <small>{one["seconds"]:.2f} s</small>'
    )
    said = f'<p class="m">{escape(one["message"])}</p>' if one["message"] else ""
    output = f"<p>It printed:</p><pre>{escape(chr(10).join(one['output']))}</pre>" if one["output"] else ""
    inner = f"{said}{_timeline(one['timeline'])}{''.join(_exchange(each) for each in one['transcript'])}{output}"
    return f"<details{opened}><summary>{title}</summary>{inner}</details>"


def _timeline(moments: list[dict[str, Any]]) -> str:
    if not moments:
        return ""
    first, last = moments[0]["atMs"], moments[-1]["atMs"]
    span = max(last - first, 0.001)
    marks = "".join(
        f'<i style="left:{(one["atMs"] - first) / span * 100:.1f}%" title="{escape(one["type"])} at {one["atMs"]} ms"></i>'
        for one in moments
    )
    words = ", ".join(f"{escape(one['type'])} {one['atMs']} ms" for one in moments)
    return f'<div class="t">{marks}</div><p><small>{words}</small></p>'


def _exchange(one: dict[str, Any]) -> str:
    if "leftOut" in one:
        return f"<p>… {one['leftOut']} exchanges are left out …</p>"
    status = one["status"] if one["status"] is not None else ("the client left" if one.get("clientGone") else "no reply")
    fault = f" <b>spoilt: {escape(one['fault'])}</b>" if "fault" in one else ""
    title = f"{one['atMs']} ms, connection {one['connection']}: {escape(one['method'])} {escape(one['path'])} → {status}{fault}"
    request = "\n".join(f"{name}: {value}" for name, value in one["headers"])
    request += f"\n\n{one['body']}" + _more(one["body"], one["bodySize"])
    for name, value in one.get("trailers", []):
        request += f"\n{name}: {value} (trailer)"
    reply = ""
    if "reply" in one:
        reply = "\n".join(f"{name}: {value}" for name, value in one["replyHeaders"])
        reply = f"<pre>{escape(reply)}\n\n{escape(one['reply'])}{_more(one['reply'], one['replySize'])}</pre>"
    return f"<details><summary><code>{title}</code></summary><pre>{escape(request)}</pre>{reply}</details>"


def _more(shown: str, size: int) -> str:
    return f"… ({size} bytes)" if size > len(shown.encode("utf-8", "replace")) else ""


def json_text(run: Run) -> str:
    """The same as JSON."""
    return json.dumps(document(run), ensure_ascii=False, indent=1) + "\n"
