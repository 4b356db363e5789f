"""Recorded answers: found by a word (a file, a name among the recorded ones, or `shipped:NAME`), listed, and written as
JSON, SVG or HTML.

The drawings are made here, without any script or outside resource. All text is escaped.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from pydantic_core import to_json

from hetspec_core.errors import DataError, HetSpecError, NotFoundError
from hetspec_core.events.steps import TreeStep
from hetspec_core.events.trace import SUFFIX, Trace, read_trace
from hetspec_core.paths import roots
from hetspec_core.service.chat.answer import Answer, best_rejected, shown
from hetspec_core.service.chat.meters import SessionTotals

SHIPPED = "shipped:"
_FOLDER = Path(__file__).parent / "shipped"
Format = Literal["json", "svg", "html"]
FORMATS: tuple[Format, ...] = ("json", "svg", "html")

_COLUMN, _ROW, _MARGIN, _HEAD = 150, 26, 12, 30
_DEPTH_COLOURS = ("#1b7837", "#2a8a57", "#3f9d77", "#56ab8f", "#6cb8a5", "#82c4b8")
_STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#24292f}"
    ".faint{fill:#8c959f}.edge{stroke:#d0d7de;fill:none}.path{stroke:#1b7837;stroke-width:2.5;fill:none}"
    ".node{fill:#f6f8fa;stroke:#d0d7de}.accepted{fill:#dafbe1;stroke:#1b7837;stroke-width:2}"
    ".root{fill:#ddf4ff;stroke:#0969da}.bonus{fill:#fff8c5;stroke:#9a6700;stroke-width:2}"
)


@dataclass(frozen=True)
class TraceSummary:
    """One trace in a list.

    Attributes:
        word: finds it in `load_trace`.
        accept_length: None when each step was cut to one token, or there is no step.
        error: why it cannot be read; empty when it can.
    """

    word: str
    path: Path
    name: str = ""
    created: float = 0.0
    base: str = ""
    label: str = ""
    steps: int = 0
    tokens: int = 0
    accept_length: float | None = None
    every_position: bool = False
    complete: bool = False
    error: str = ""

    @classmethod
    def of(cls, word: str, path: Path) -> TraceSummary:
        """The summary of a file, also of one that cannot be read."""
        try:
            trace = read_trace(path)
        except HetSpecError as error:
            return cls(word, path, error=error.message)
        answer, header = Answer.of(trace), trace.header
        return cls(
            word=word,
            path=path,
            name=header.name,
            created=header.created,
            base=header.base.name if header.base else "",
            label=header.settings.label,
            steps=len(answer.steps),
            tokens=len(answer.tokens),
            accept_length=answer.stats.accept_length,
            every_position=header.every_position,
            complete=answer.end is not None,
        )

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "path": str(self.path)}


def list_traces() -> list[TraceSummary]:
    """The shipped traces, then those recorded, newest first."""
    shipped = [TraceSummary.of(SHIPPED + path.stem, path) for path in sorted(_FOLDER.glob(f"*{SUFFIX}"))]
    folder = roots().traces
    own = [TraceSummary.of(path.stem, path) for path in folder.glob(f"*{SUFFIX}")] if folder.is_dir() else []
    return shipped + sorted(own, key=lambda one: (-one.created, one.word))


def find_trace(word: str) -> Path:
    """The file of the trace that a word means.

    Args:
        word: a file, `shipped:NAME`, or a name (or the beginning of exactly one) among the recorded ones.

    Raises:
        NotFoundError: there is none, or the word means several.
    """
    hint = "`hetspec-core trace list` shows those there are"
    if word.startswith(SHIPPED):
        path = _FOLDER / f"{word.removeprefix(SHIPPED)}{SUFFIX}"
        if path.parent == _FOLDER and path.is_file():
            return path
        names = ", ".join(SHIPPED + path.stem for path in sorted(_FOLDER.glob(f"*{SUFFIX}")))
        raise NotFoundError(f"there is no trace {word}; shipped are: {names}", hint=hint)
    path = Path(word).expanduser()
    if path.is_file():
        return path
    folder = roots().traces
    names = sorted(path.stem for path in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    found = [word] if word in names else [name for name in names if word and name.startswith(word)]
    if len(found) != 1:
        means = f"{word!r} means {len(found)} traces: {', '.join(found[:5])}"
        raise NotFoundError(means if found else f"there is no trace {word!r}", hint=hint)
    return folder / f"{found[0]}{SUFFIX}"


def load_trace(word: str) -> Trace:
    """The trace that a word means, as for `find_trace`.

    Raises:
        NotFoundError: there is none.
        CorruptFileError: it cannot be read.
    """
    return read_trace(find_trace(word))


def export(trace: Trace, form: Format, *, step: int | None = None) -> str:
    """The trace in a format.

    Args:
        trace: what to export.
        form: json (all data), svg (one step), html (the text and all steps).
        step: index of the step for svg; the one with the longest accepted path when absent.

    Raises:
        DataError: there is no such step, or it has no tree.
    """
    if form == "json":
        return to_json(as_data(trace), indent=2, inf_nan_mode="null").decode() + "\n"
    return to_svg(_chosen(trace, step)) if form == "svg" else to_html(trace)


def as_data(trace: Trace) -> dict[str, Any]:
    """Header, text, figures and steps as JSON types."""
    answer, meters = Answer.of(trace), SessionTotals()
    return {
        "header": trace.header.model_dump(mode="json"),
        "state": answer.state,
        "text": answer.text,
        "tokens": answer.tokens,
        "pieces": [vars(piece) for piece in answer.pieces],
        "figures": meters.figures(answer, trace.header.settings.label).to_json(),
        "steps": [step.model_dump(mode="json") for step in trace.steps],
        "end": None if trace.end is None else trace.end.model_dump(mode="json"),
        "damaged_lines": trace.damaged_lines,
    }


def _chosen(trace: Trace, index: int | None) -> TreeStep:
    trees = [step.tree for step in trace.steps if step.tree is not None]
    if not trees:
        raise DataError("the trace has no draft trees", hint="record an answer with a draft")
    if index is None:
        return max(trees, key=lambda tree: (len(tree.path), -tree.index))
    found = next((tree for tree in trees if tree.index == index), None)
    if found is None:
        raise DataError(f"the trace has no step {index} with a tree; it has {trees[0].index} to {trees[-1].index}")
    return found


def to_svg(step: TreeStep) -> str:
    """One verify step as a drawing: depth to the right, the accepted path on top and bold."""
    rows, depths = _rows(step), step.depths
    deepest = max([*depths, len(step.path) + 1])
    width = 2 * _MARGIN + (deepest + 1) * _COLUMN
    height = 2 * _MARGIN + _HEAD + (max(rows) + 1) * _ROW + _ROW
    accepted = set(step.path)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="draft tree of step {step.index}"><style>{_STYLE}</style>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + 12}">step {step.index}: {step.num_nodes} nodes, '
        f"{len(step.path)} accepted, {len(step.committed)} committed</text>",
    ]
    end = step.path[-1] if step.path else 0
    bonus_at = (depths[end] + 1, max(rows) + 1)
    for node in range(1, len(step.tokens)):
        kind = "path" if node in accepted else "edge"
        parts.append(_edge((depths[step.parents[node]], rows[step.parents[node]]), (depths[node], rows[node]), kind))
    parts.append(_edge((depths[end], rows[end]), bonus_at, "path"))
    for node in range(len(step.tokens)):
        kind = "root" if node == 0 else "accepted" if node in accepted else "node"
        note = "" if node == 0 else f"{step.draft_probs[node]:.2f} · {step.base_probs[node]:.2f}"
        title = (
            f"draft {step.draft_probs[node]:.4f}, base {step.base_probs[node]:.4f}, rank {step.base_ranks[node] + 1}"
        )
        parts.append(_box((depths[node], rows[node]), kind, step.texts[node], note, title if node else "root"))
    parts.append(_box(bonus_at, "bonus", step.bonus_text, f"{step.bonus_prob:.2f} bonus", "chosen by the base itself"))
    return "".join(parts) + "</svg>\n"


def _rows(step: TreeStep) -> list[int]:
    """Row of every node: a parent is in the row of its first child, and the accepted child is the first."""
    accepted = set(step.path)
    children: list[list[int]] = [[] for _ in step.tokens]
    for node in range(1, len(step.tokens)):
        children[step.parents[node]].append(node)
    for below in children:
        below.sort(key=lambda node: (node not in accepted, -step.draft_probs[node]))
    rows, line, stack = [0] * len(step.tokens), 0, [0]
    while stack:
        node = stack.pop()
        rows[node] = line
        if children[node]:
            stack += reversed(children[node])
        else:
            line += 1
    return rows


def _place(at: tuple[int, int]) -> tuple[int, int]:
    return _MARGIN + at[0] * _COLUMN, _MARGIN + _HEAD + at[1] * _ROW


def _edge(start: tuple[int, int], end: tuple[int, int], kind: str) -> str:
    (x0, y0), (x1, y1) = _place(start), _place(end)
    x0, y0, y1 = x0 + _COLUMN - 20, y0 + 10, y1 + 10
    middle = (x0 + x1) // 2
    return f'<path class="{kind}" d="M{x0} {y0}C{middle} {y0} {middle} {y1} {x1} {y1}"/>'


def _box(at: tuple[int, int], kind: str, text: str, note: str, title: str) -> str:
    x, y = _place(at)
    label = shown(text)
    label = label if len(label) <= 9 else label[:8] + "…"
    return (
        f"<g><title>{_text(f'{shown(text)}: {title}')}</title>"
        f'<rect class="{kind}" x="{x}" y="{y}" width="{_COLUMN - 20}" height="20" rx="4"/>'
        f'<text x="{x + 5}" y="{y + 14}">{_text(label)}</text>'
        f'<text class="faint" x="{x + _COLUMN - 25}" y="{y + 14}" text-anchor="end" font-size="9">{_text(note)}</text>'
        "</g>"
    )


def to_html(trace: Trace) -> str:
    """One page: question, coloured answer, figures, and a foldable part for each step with its tree."""
    answer = Answer.of(trace)
    header, stats = trace.header, answer.stats
    title = _text(header.name or "trace")
    spans = []
    for piece in answer.pieces:
        colour = _DEPTH_COLOURS[min(piece.depth, len(_DEPTH_COLOURS)) - 1] if piece.origin == "draft" else ""
        kind = {"draft": f"depth {piece.depth}", "bonus": "bonus", "base": "base"}[piece.origin]
        style = f' style="color:{colour};font-weight:600"' if colour else ""
        spans.append(f'<span class="{piece.origin}"{style} title="{kind}">{_text(piece.text)}</span>')
    facts = [("base", header.base.name if header.base else ""), ("decoding", header.settings.label)]
    facts.append(("verify steps", str(len(answer.steps))))
    if stats.accept_length is not None:
        facts.append(("accept length", f"{stats.accept_length:.2f}"))
    if answer.decode_tokens_per_s is not None:
        facts.append(("tokens/s", f"{answer.decode_tokens_per_s:.1f}"))
    table = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in facts)
    turns = "".join(f"<p><b>{turn.role}</b> {_text(turn.content)}</p>" for turn in header.messages)
    steps = "".join(_step_html(tree) for tree in answer.trees)
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#24292f}"
        ".answer{white-space:pre-wrap;border-left:3px solid #d0d7de;padding-left:1rem}"
        ".bonus{color:#9a6700}th{text-align:left;padding-right:1rem}summary{cursor:pointer}.tree{overflow-x:auto}"
        f"</style></head><body><h1>{title}</h1><table>{table}</table>{turns}"
        f"<p><b>assistant</b> (green: accepted draft tokens, paler the deeper; brown: bonus tokens)</p>"
        f'<div class="answer">{"".join(spans)}</div><h2>Verify steps</h2>{steps}</body></html>\n'
    )


def _step_html(tree: TreeStep) -> str:
    rejected = best_rejected(tree)
    why = f"<p>{_text(rejected.sentence)}</p>" if rejected is not None else ""
    committed = "".join([*(tree.texts[node] for node in tree.path), tree.bonus_text])
    return (
        f"<details><summary>{tree.index}: {len(tree.path)} of {tree.num_nodes} accepted, "
        f'<code>{_text(shown(committed))}</code></summary>{why}<div class="tree">{to_svg(tree)}</div></details>'
    )


def _text(text: str) -> str:
    """Text for HTML and SVG: escaped, without characters that XML does not allow."""
    return escape(
        "".join(char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    )
