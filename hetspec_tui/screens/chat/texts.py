"""The chat in words and figures: its head, entries of the conversation, the meters."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from hetspec_core.events.chat_settings import ChatMessage, ChatSettings
from hetspec_core.service.chat.answer import Answer, Piece
from hetspec_core.service.chat.conversation import Turn
from hetspec_core.service.chat.meters import Figures
from hetspec_core.service.chat.session import ChatSession
from hetspec_tui.formatting import bar, number, places, safe
from hetspec_tui.widgets.transcript import Token, TranscriptEntry

STATES = {
    "new": ("◌", "dim", "not loaded yet"),
    "loading": ("◔", "$text-accent", "loading"),
    "ready": ("✔", "$text-success", "ready"),
    "answering": ("▶", "$text-primary", "answering"),
    "calibrating": ("▶", "$text-primary", "measuring this machine"),
    "dead": ("✖", "$text-error", "the worker died: ctrl+r restarts it"),
    "closed": ("◌", "dim", "memory free: a question loads it again"),
}
"""State of a session -> sign, colour, words."""
_SOURCES = {"base": "plain", "draft": "draft", "bonus": "bonus"}
_WIDE = 60
_LABEL = "dim"
Line = list[tuple[str, str]]
"""Pieces of a line of the meters: text and style."""


def tokens_of(pieces: Sequence[Piece]) -> list[Token]:
    """Pieces as the transcript takes them."""
    return [Token(piece.text, _SOURCES[piece.origin], piece.depth, piece.step) for piece in pieces]  # type: ignore[arg-type]


def head_text(session: ChatSession, *, recording: bool, read_only: bool) -> Content:
    """Base, draft, tree and what is under way, in one line."""
    settings = session.settings
    sign, colour, words = STATES[session.state]
    if session.stopping:
        words = "stopping"
    if session.loading is not None and session.state == "loading":
        words = f"loading {safe(session.loading.what)} {session.loading.done:.0%}"
    elif session.loading is not None and session.state == "answering":
        done = f" {session.loading.done:.0%}" if session.loading.done else ""
        words = f"{safe(session.loading.what)}{done}"
    if read_only and session.state == "new":
        words = "read-only: recorded answers can be looked at (o)"
    parts: list[Content | str | tuple[str, str]] = [(f"{sign} {words}  ", colour)]  # narrow screens have no end of it
    if recording:
        parts.append(("● recording  ", "$text-error"))
    parts += [
        (safe(session.config.base.name), "bold"),
        ("  draft ", "dim"),
        safe(settings.draft_name) or "none",
    ]
    if not settings.plain:
        parts += [("  tree ", "dim"), served_tree(session) or settings.tree]
    parts += [("  temperature ", "dim"), number(settings.sampling.temperature)]
    if session.base is not None and session.base.decoder == "reference" and session.base.decoder_why:
        parts += [("  decoder reference: ", "dim"), (safe(session.base.decoder_why), "dim")]
    elif session.base is not None and session.base.decoder:
        parts += [("  decoder ", "dim"), safe(session.base.decoder)]
    if session.config.backend != "builtin":
        url = str(session.config.backend_options.get("url", ""))
        parts += [("  by ", "dim"), safe(f"{session.config.backend} {url}".strip())]
    if settings.system_prompt:
        parts.append(("  +system", "dim"))
    return Content.assemble(*parts)


def served_tree(session: ChatSession) -> str:
    """The tree of a server that was attached to, which has its own; empty where the settings say it."""
    tree = session.base.machine.get("tree") if session.base is not None else None
    return "/".join(f"{number}" for number in tree) if isinstance(tree, list | tuple) else ""


def replay_text(name: str, settings: ChatSettings, base: str) -> Content:
    """The head while a recorded answer is looked at."""
    return Content.assemble(
        ("▶ recorded answer ", "$text-accent"),
        (safe(name), "bold"),
        ("  ", ""),
        (f"{safe(base)}  {safe(settings.label)}  temperature {number(settings.sampling.temperature)}", "dim"),
        ("  esc closes it", "$text-accent"),
    )


def answer_head(label: str, accept: float | None, speed: float | None, reason: str) -> str:
    """The line above an answer: its figures, how it ended, who made it."""
    words = []
    if accept is not None:
        words.append(f"{accept:.2f} tokens/step")
    if speed is not None:
        words.append(f"{speed:.1f} tok/s")
    if reason in ("stopped", "length", "context", "died", "failed"):
        said = {"length": "cut at the limit", "context": "the context is full", "died": "the worker died"}
        words.append(said.get(reason, reason))
    return "  ".join([*words, safe(label) or "answer"])


def turn_entry(place: int, turn: Turn, *, coloured: bool) -> TranscriptEntry:
    """A turn of the conversation."""
    key = f"{place}"
    if turn.role == "user":
        return TranscriptEntry(key, "user", "you", (Token(turn.text),))
    head = answer_head(turn.label, turn.accept_length, turn.tokens_per_s, turn.stop_reason)
    tokens = tokens_of(turn.pieces) or [Token(turn.text)]
    return TranscriptEntry(key, "assistant", head, tokens, markdown=not coloured)


def message_entry(place: int, message: ChatMessage) -> TranscriptEntry:
    """A message of a recorded conversation."""
    voice = "user" if message.role == "user" else "assistant"
    return TranscriptEntry(f"m{place}", voice, "you" if voice == "user" else "answer", (Token(message.content),))


def answer_entry(key: str, answer: Answer, *, coloured: bool = True) -> TranscriptEntry:
    """An answer that is under way, or that is looked at step by step."""
    reason = answer.end.stop_reason if answer.end is not None else answer.state
    label = answer.label
    head = answer_head(label, answer.stats.accept_length, answer.decode_tokens_per_s, reason)
    if answer.state == "waiting":
        head = f"{safe(label)}  waiting for the models" if answer.started is None else head
    return TranscriptEntry(key, "assistant", head, tokens_of(answer.pieces), markdown=not coloured and answer.ended)


def trouble_entry(answer: Answer) -> TranscriptEntry | None:
    """Why there is no answer, or no whole one."""
    if not answer.error:
        return None
    text = answer.error + (f"\n{answer.hint}" if answer.hint else "")
    if answer.state == "died":
        text += "\nctrl+r starts a new worker; the conversation is kept."
    return TranscriptEntry(f"trouble {answer.ask}", "error", "", (Token(text),))


def welcome(session: ChatSession | None, *, read_only: bool) -> TranscriptEntry:
    """What is said when nothing was said yet."""
    lines = ["Talk to a base and its draft, and watch speculation happen.", ""]
    if read_only:
        lines.append("This dashboard is read-only: it loads no models.")
    else:
        lines.append("Write below and press enter; the models are loaded with the first question.")
    if session is not None and session.settings.plain and not read_only:
        lines.append("There is no draft: f2 chooses one, page 4 trains one in minutes.")
    lines += [
        "",
        "f3  a recorded answer, step by step (one is shipped)",
        "f4  which tree shape would have been best",
        "f2  base, draft, tree, temperature, system prompt",
        "f5  the same question two ways, side by side",
        "",
        "esc leaves the line where you write; then letters are keys, and ? shows them all.",
        "",
        "Tokens have the colour of where they came from: green to blue were guessed by the draft (bluer = deeper), "
        "yellow ones were chosen by the base itself.",
    ]
    return TranscriptEntry("welcome", "note", "", (Token("\n".join(lines)),))


# --- meters ----------------------------------------------------------------------------------------------------------


class Meters(Widget):
    """Figures in as many lines as there is room for."""

    DEFAULT_CSS = """
    Meters { height: auto; padding: 0 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._figures: Figures | None = None

    def show(self, figures: Figures) -> None:
        if figures != self._figures:
            self._figures = figures
            self.refresh()

    @property
    def figures(self) -> Figures | None:
        return self._figures

    def render(self) -> Content:
        if self._figures is None:
            return Content("")
        lines = meter_lines(self._figures, self.size.width, self.size.height)
        return Content("\n").join(Content.assemble(*line) for line in lines)


def meter_lines(figures: Figures, width: int, height: int) -> list[Line]:
    """The figures in at most `height` lines of `width` cells, the most telling ones first."""
    if height <= 2:
        return [_brief(figures)][:height]
    lines = [_accept(figures, width), _speed(figures, width)]
    if height >= 4:
        lines.append(_time(figures, width))
    if height >= 5:
        lines.append(_memory(figures))
    rest = height - len(lines)
    if rest >= 3:
        lines += _tables(figures, width, rest)
    return lines


def _brief(figures: Figures) -> Line:
    line: Line = [("accept ", _LABEL), (places(figures.accept_length, 2), "bold $text-success")]
    line += [(" pooled ", _LABEL), (places(figures.pooled_accept_length, 2), "")]
    line += [("  ", ""), (places(figures.tokens_per_s, 1), "bold"), (" tok/s", _LABEL)]
    if figures.speedup is not None:
        line.append((f" {figures.speedup:.2f}x", "bold $text-accent"))
    line += [("  kv ", _LABEL), (f"{figures.kv_tokens:,}/{figures.context_tokens:,}", "")]
    return line


def _accept(figures: Figures, width: int) -> Line:
    step = "-" if figures.step_committed is None else f"{figures.step_committed}"
    line: Line = [("accept   ", _LABEL), (f"{places(figures.accept_length, 2):<6}", "bold $text-success")]
    line += [
        ("this step ", _LABEL),
        (f"{step:<4}", ""),
        ("pooled ", _LABEL),
        (places(figures.pooled_accept_length, 2), ""),
    ]
    if width >= _WIDE:
        line.append((f" over {figures.pooled_steps:,} steps", _LABEL))
    return line


def _speed(figures: Figures, width: int) -> Line:
    line: Line = [("tok/s    ", _LABEL), (f"{places(figures.tokens_per_s, 1):<6}", "bold")]
    if figures.plain_tokens_per_s is None:
        line.append(("plain unknown: b measures it" if width >= 45 else "plain ? (b)", _LABEL))
        return line
    line += [("plain ", _LABEL), (f"{places(figures.plain_tokens_per_s, 1)}", "")]
    if figures.speedup is not None:
        line.append((f"  {figures.speedup:.2f}x", "bold $text-accent"))
    if width >= _WIDE:
        line.append((f"  (plain by {figures.plain_source})", _LABEL))
    return line


def _time(figures: Figures, width: int) -> Line:
    line: Line = [("time     ", _LABEL)]
    if figures.split is None:
        return [*line, ("-", _LABEL)]
    names = (("propose", "$warning"), ("verify", "$primary"), ("other", "dim"))
    room = max(4, width - 9 - 40)
    cells = _cells(figures.split.shares, room)
    line += [(sign * size, colour) for sign, size, (_, colour) in zip("█▓░", cells, names)]
    for sign, share, (name, colour) in zip("█▓░", figures.split.shares, names):
        line += [(f" {sign} ", colour), (f"{name} {share:.0%}", "")]
    return line


def _cells(shares: tuple[float, float, float], room: int) -> list[int]:
    """Cells of a bar, whose sum is `room`."""
    cells = [round(share * room) for share in shares]
    cells[cells.index(max(cells))] += room - sum(cells) if sum(cells) else 0
    return cells


def _memory(figures: Figures) -> Line:
    if not figures.context_tokens:
        return [("kv cache ", _LABEL), ("-", _LABEL)]
    share = figures.kv_tokens / figures.context_tokens
    full, rest = bar(share, 12)
    return [
        ("kv cache ", _LABEL),
        (full, "$primary"),
        (rest, "dim"),
        (f" {figures.kv_tokens:,} of {figures.context_tokens:,} tokens", ""),
        (f"  answer {figures.tokens:,}", _LABEL),
    ]


def _tables(figures: Figures, width: int, height: int) -> list[Line]:
    """Acceptance by depth at the left, tokens a step at the right."""
    left = max(20, width // 2 - 2)
    depths: list[Line] = [[(f"{'accepted by depth':<{left}}", _LABEL)]]
    for row in figures.by_depth[: height - 1]:
        rate = row.acceptance_rate
        said = "-" if rate is None else f"{rate:.0%}"
        full, rest = bar(rate, left - 13)
        text = f"{row.depth:>2} "
        depths.append([(text, _LABEL), (full, "$success"), (rest, "dim"), (f"{said:>5}     "[:left], "")])
    counts = figures.histogram
    steps = sum(counts.values())
    columns: list[Line] = [[("steps by tokens", _LABEL)]]
    for tokens in sorted(counts)[: height - 1]:
        share = counts[tokens] / steps
        full, rest = bar(share, max(4, width - left - 14))
        columns.append([(f"{tokens:>2} ", _LABEL), (full, "$accent"), (rest, "dim"), (f" {counts[tokens]}", "")])
    lines: list[Line] = []
    for at in range(min(height, max(len(depths), len(columns)))):
        here = depths[at] if at < len(depths) else []
        used = sum(len(text) for text, _ in here)
        lines.append([*here, (" " * max(2, left + 2 - used), ""), *(columns[at] if at < len(columns) else [])])
    return lines
