"""What notebooks show: inline SVG, which needs no plotting library and no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .job import Job, JobStatus
    from .models import Explanation, Version

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 240, 56, 12, 12, 34

COLOURS = {"published": "#1a7f37", "held": "#9a6700", "rejected": "#cf222e", "superseded": "#8c959f"}


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this process."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    shell = ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


class Live:
    """A picture of a job that changes where it was shown."""

    def __init__(self, job: Job) -> None:
        self.job, self.handle = job, None

    def update(self) -> None:
        from IPython.display import HTML
        from IPython.display import display as show

        picture = HTML(self.job._repr_html_())
        if self.handle is None:
            self.handle = show(picture, display_id=True)
        else:
            self.handle.update(picture)


def number(x: float) -> str:
    """Writes a number with few digits."""
    if x == int(x) and abs(x) < 1e15:
        return f"{int(x):,}"
    return f"{x:.4g}"


class Plot:
    """Maps values to places of the picture."""

    def __init__(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self.x1 = max([*xs, 1.0])
        lo, hi = (min(ys), max(ys)) if ys else (0.0, 1.0)
        pad = (hi - lo) * 0.08 or max(abs(hi) * 0.1, 0.01)
        self.y0, self.y1 = lo - pad, hi + pad

    def x(self, v: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * v / self.x1

    def y(self, v: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.y1 - v) / (self.y1 - self.y0)

    def axes(self) -> list[str]:
        out = []
        for k in range(5):
            v = self.y0 + (self.y1 - self.y0) * k / 4
            out.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{self.y(v):.1f}" y2="{self.y(v):.1f}" stroke="#8884" />'
                f'<text x="{LEFT - 6}" y="{self.y(v) + 4:.1f}" text-anchor="end">{number(round(v, 6))}</text>'
            )
            e = self.x1 * k / 4
            anchor = "end" if k == 4 else "middle"
            out.append(f'<text x="{self.x(e):.1f}" y="{HEIGHT - 16}" text-anchor="{anchor}">{number(round(e))}</text>')
        out.append(f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 2}" text-anchor="middle">examples</text>')
        return out


def loss_svg(history: Sequence[JobStatus], versions: Sequence[Version]) -> str:
    """Draws the loss as it was seen and the versions, each where its examples end."""
    seen = [st for st in history if st.progress.examples]
    points = [(st.progress.examples, st.recent.loss or st.progress.loss) for st in seen]
    prior = seen[-1].progress.prior_loss if seen else 0.0
    ys = [y for _, y in points] + ([prior] if prior else [])
    plot = Plot([*(x for x, _ in points), *(float(v.examples) for v in versions)], ys)
    body = plot.axes()
    if prior:
        y = plot.y(prior)
        body.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8c959f" stroke-dasharray="4 3">'
            "<title>knowing only the labels</title></line>"
        )
    for v in versions:
        colour = COLOURS.get(v.decision, "#8c959f")
        width = 3 if v.serves else 1
        body.append(
            f'<line x1="{plot.x(v.examples):.1f}" x2="{plot.x(v.examples):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            f'stroke="{colour}" stroke-width="{width}"><title>v{v.number} {escape(v.decision)}: {escape(v.reason)}</title></line>'
        )
    if len(points) > 1:
        path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points)
        body.append(f'<polyline points="{path}" fill="none" stroke="#0969da" stroke-width="2" />')
    for x, y in points:
        body.append(
            f'<circle cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="2.5" fill="#0969da"><title>{number(y)}</title></circle>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="loss and versions" '
        f'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" fill="currentColor">{"".join(body)}</svg>'
    )


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = "".join(f"<th style='text-align:left'>{escape(h)}</th>" for h in head)
    lines = "".join("<tr>" + "".join(f"<td style='text-align:left'>{escape(str(c))}</td>" for c in r) + "</tr>" for r in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def job_html(st: JobStatus, history: Sequence[JobStatus], versions: Sequence[Version]) -> str:
    """Returns a job as notebooks show it."""
    live = f"v{st.champion}" if st.champion else "none yet"
    line = f"<b>{escape(st.job)}</b> is {escape(st.state)}"
    if st.reason:
        line += f": {escape(st.reason)}"
    line += f" · {st.examples:,} examples · live {live}"
    p = st.progress
    if p.examples:
        line += f" · loss {number(p.loss)} (knowing only the labels {number(p.prior_loss)})"
        line += f" · accuracy {number(p.accuracy)}" if p.accuracy else ""
        line += f" · AUC {number(p.auc)}" if p.auc else ""
    if st.bad_rows:
        line += f" · {st.bad_rows:,} bad rows"
    rows = [("→" if v.serves else "", f"v{v.number}", v.decision, f"{v.examples:,}", v.reason) for v in versions[-8:]]
    listed = table_html(["", "version", "decision", "examples", "why"], rows) if rows else ""
    return f"<div><p>{line}</p>{loss_svg(history, versions)}{listed}</div>"


def explanation_html(e: Explanation) -> str:
    """Returns an explanation as notebooks show it."""
    serves = "serves" if e.serves else "does not serve"
    line = f"<b>{escape(e.model)} v{e.number}</b> {serves}: {escape(e.decision)}, {escape(e.reason)}"
    line += f" · {e.examples:,} examples up to {list(e.cut)} · snapshot {e.snapshot} of job {escape(e.job)}"
    checks = table_html(["check", "status", "finding"], [(c.name, c.status, c.detail) for c in e.evidence])
    return f"<div><p>{line}</p>{checks if e.evidence else ''}</div>"
