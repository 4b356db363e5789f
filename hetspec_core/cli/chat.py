"""`hetspec-core chat`: talk to base and draft in a plain terminal or a pipe; questions on stdin, answers on stdout.

A line is a question, or a command that begins with a slash. Ctrl-C stops what is running, a second one ends the chat.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.text import Text

from hetspec_core.cli.chat_view import (
    AnswerPrinter,
    figure_lines,
    is_shown,
    show_end,
    show_loading,
    tree_lines,
    verdict_lines,
)
from hetspec_core.cli.console import console, note, print_json, print_line, read_stdin_line
from hetspec_core.cli.follow import Interrupts
from hetspec_core.cli.options import (
    BACKEND_OPTIONS,
    DraftOption,
    FirstOrOption,
    JsonFlag,
    SavedOption,
    SpecOptions,
    recipe_and_texts,
    spec_options,
)
from hetspec_core.errors import Cancelled, DataError, HetSpecError, StageFailed, UsageError
from hetspec_core.events.chat import Garbage, WorkerDied
from hetspec_core.paths import roots
from hetspec_core.service.chat.conversation import ChatHistory, conversation_folder
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import chat_config, with_draft
from hetspec_core.service.drafts import find_draft
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.events.chat import ChatEvent
    from hetspec_core.events.chat_settings import ChatSettings
    from hetspec_core.service.chat.answer import Answer

app = typer.Typer()


@app.command()
@spec_options(
    {
        "--plain": "decoding.plain",
        "--tree": "decoding.tree",
        "--draft-vocab": "decoding.draft_vocab",
        "--max-new-tokens": "decoding.max_new_tokens",
        "--temperature": "decoding.sampling.temperature",
        "--seed": "decoding.sampling.seed",
        **BACKEND_OPTIONS,
    }
)
def chat(
    *,
    questions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [QUESTION]...", help="Recipe preset, then questions to ask before it ends; stdin if none."
        ),
    ] = None,
    recipe: FirstOrOption = None,
    draft: DraftOption = None,
    saved: SavedOption = None,
    given: SpecOptions,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    load: Annotated[Path | None, typer.Option("--load", help="Conversation to continue.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write a trace of every answer.")] = False,
    record_to: Annotated[
        Path | None, typer.Option("--record-to", help="Folder of the traces; implies --record.")
    ] = None,
    every_position: Annotated[
        bool, typer.Option("--every-position", help="Commit one token per step, so that a trace suits the simulator.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Chat with a base and its draft: accepted tokens in colour, /tree, /stats, /ab, /set and more; see /help."""
    recipe, questions = recipe_and_texts(questions or [], recipe, saved)
    plain = given.values.pop("decoding.plain", False)
    conversation = ChatHistory.load(load) if load is not None else None
    with Workbench() as workbench:
        config = chat_config(
            workbench,
            recipe,
            draft=draft,
            saved=saved,
            plain=plain,
            overrides=given.overrides,
            options=given.values,
            file=given.file,
        )
        for text in config.notes:
            note(text)
        folder = record_to or (roots().traces if record else None)
        with ChatSession(config, conversation=conversation, record=folder) as session:
            if system is not None:
                session.change(system_prompt=system or None)
            session.start()
            piped = bool(questions) or json or not sys.stdin.isatty()
            talk = Talk(session, workbench, as_json=json, every_position=every_position, piped=piped)
            _converse(talk, questions)


def _converse(talk: Talk, questions: list[str]) -> None:
    if not talk.piped:
        note("ask something, or /help; Ctrl-C stops an answer, twice it ends the chat")
        with suppress(ImportError):
            import readline  # noqa: F401 - importing it gives the prompt line editing and history
    waiting = iter(questions)
    while not talk.over:
        try:
            line = next(waiting, None) if questions else read_stdin_line() if talk.piped else input("> ")
        except EOFError:
            break
        except KeyboardInterrupt:  # at the prompt
            raise Cancelled("the chat was ended") from None
        if line is None:
            break
        if not line.strip():
            continue
        try:
            talk.take(line)
        except UsageError as error:
            if talk.piped:
                raise
            console().print(str(error), style="red")
        if talk.piped:
            _check(talk.session)
    if talk.as_json:
        print_json({"type": "figures", **talk.session.figures.to_json()}, lines=True)


def _check(session: ChatSession) -> None:
    """Raise the error of the last answer: in a pipe nobody can restart the worker or shorten the conversation."""
    answer = session.answer
    if session.state == "dead" and session.death is not None:
        raise StageFailed(session.death.message, hint=session.death.hint + f"; log: {session.death.log}")
    if answer is not None and answer.state == "refused":
        raise DataError(answer.error, hint=answer.hint)
    if answer is not None and answer.state == "failed":
        raise StageFailed(answer.error, hint=answer.hint)


_LOOK_S = 0.2
HELP = """\
/tree [STEP]          the draft tree of a verify step of the last answer (the last one)
/stats                accept length, acceptance by depth, speed, where the time goes
/calibrate            measure plain decoding and a step of the present tree, for the speedup
/set                  the settings, by their keys; /set KEY=VALUE changes one
/draft [RUN_OR_DIR]   another draft; `/draft none` decodes plainly
/ab [A | B] QUESTION  ask two ways: each a tree, `plain`, or a run or directory with a draft;
                      plain against the present one when none is named
/again                answer the last question anew
/edit N TEXT          change turn N (from 0); a changed question is answered anew
/history              the turns
/save [FILE]          write the conversation; /load FILE continues one
/new                  a new conversation
/restart              a new worker, when the present one died
/quit                 end"""


class Talk:
    """A chat at a command line.

    Args:
        session: a session that is started.
        workbench: where drafts are found.
        as_json: print every event as a line of JSON instead of text.
        every_position: ask for a tree at every position.
        piped: questions do not come from a prompt; the caller ends the chat with the error and reports it.
    """

    def __init__(
        self,
        session: ChatSession,
        workbench: Workbench,
        *,
        as_json: bool = False,
        every_position: bool = False,
        piped: bool = False,
    ) -> None:
        self.session = session
        self.workbench = workbench
        self.as_json = as_json
        self.every_position = every_position
        self.piped = piped
        self.over = False
        self._commands: dict[str, Callable[[str], None]] = {
            "": lambda text: self._follow(lambda: self.session.send(text, every_position=self.every_position)),
            "tree": self._tree,
            "stats": self._stats,
            "calibrate": self._calibrate,
            "set": self._set,
            "draft": self._draft,
            "ab": self._compare,
            "again": lambda _: self._follow(self.session.regenerate),
            "edit": self._edit,
            "history": self._history,
            "save": self._save,
            "load": self._load,
            "new": lambda _: self.session.replace_conversation(),
            "restart": lambda _: self.session.restart(),
            "quit": self._quit,
            "help": lambda _: console().print(HELP),
        }

    def take(self, line: str) -> None:
        """Run one line: a command or a question.

        Raises:
            UsageError: it is no command, or what it names is not there or not allowed.
            Cancelled: Ctrl-C was pressed twice.
        """
        name, _, rest = line[1:].partition(" ") if line.startswith("/") else ("", "", line)
        command = self._commands.get(name)
        if command is None:
            allowed = ", ".join(f"/{one}" for one in self._commands if one)
            raise UsageError(f"there is no command /{name}", hint=f"there are: {allowed}")
        try:
            command(rest.strip())
        except (UsageError, Cancelled):
            raise
        except HetSpecError as error:
            raise UsageError(error.message, hint=error.hint) from error

    # --- following ---------------------------------------------------------------------------------------------------

    def _follow(self, begin: Callable[[], object]) -> None:
        """Begin an answer or a measurement, and show it to its end."""
        shown = self.session.answer
        with Interrupts() as interrupts:
            begin()
            printer, last = AnswerPrinter(), self.session.answer
            while self.session.busy:
                for event in self.session.wait(_LOOK_S):
                    self._show(event)
                answer = self.session.answer
                if answer is not last:  # the other side of a comparison
                    self._finish(printer, last)
                    printer, last = AnswerPrinter(), answer
                if answer is not None and answer is not shown and not self.as_json:
                    printer.show(answer)
                if interrupts.take():
                    if interrupts.count > 1:
                        raise Cancelled("the chat was ended")
                    self.session.stop()
            if last is not shown:  # a calibration makes no answer
                self._finish(printer, last)

    def _finish(self, printer: AnswerPrinter, answer: Answer | None) -> None:
        if answer is None or self.as_json or not answer.ended:
            return
        printer.show(answer)
        printer.finish()
        if self.piped and answer.went_wrong:
            return
        show_end(answer, self.session.meters.figures(answer, answer.settings.label))

    def _show(self, event: ChatEvent) -> None:
        if self.as_json:
            print_json(event.model_dump(mode="json"), lines=True)
        elif isinstance(event, WorkerDied) and self.piped:
            return
        elif isinstance(event, WorkerDied):
            note(f"{event.message}; /restart begins a new one, the conversation is kept (log: {event.log})")
        elif not is_shown(event) and not isinstance(event, Garbage):
            show_loading(event, self.session.state == "answering")

    # --- commands ----------------------------------------------------------------------------------------------------

    def _print(self, lines: Iterable[str | Text]) -> None:
        for line in lines:
            print_line(line)

    def _answer(self, kind: str, data: Mapping[str, object], lines: Iterable[str | Text]) -> None:
        """Print lines, or with --json one object of this type."""
        if self.as_json:
            print_json({"type": kind, **data}, lines=True)
        else:
            self._print(lines)

    def _tree(self, rest: str) -> None:
        answer = self.session.answer
        trees = answer.trees if answer is not None else []
        if not trees and answer is not None and answer.steps:
            raise UsageError(
                "the steps of this answer came without their trees",
                hint="a server that is already running reports none; --backend sglang starts one that does",
            )
        if not trees:
            raise UsageError("there is no verify step to show", hint="ask something with a draft first")
        if rest and not rest.isdecimal():
            raise UsageError(f"/tree {rest}: needs the number of a step, 0 to {trees[-1].index}")
        index = int(rest) if rest else trees[-1].index
        tree = next((tree for tree in trees if tree.index == index), None)
        if tree is None:
            raise UsageError(f"there is no step {index}; there are 0 to {trees[-1].index}")
        self._answer("tree", tree.model_dump(mode="json"), tree_lines(tree))

    def _stats(self, _: str) -> None:
        figures = self.session.figures
        self._answer("figures", figures.to_json(), figure_lines(figures))

    def _calibrate(self, rest: str) -> None:
        before = self.session.meters.calibration
        self._follow(lambda: self.session.calibrate(rest.split() or None))
        calibration = self.session.meters.calibration
        problem = self.session.problem
        if calibration is before and problem is not None:
            raise UsageError(problem.error.message, hint=problem.error.hint)
        if calibration is not None and not self.as_json:
            lines = [f"plain: {1 / calibration.plain_token_s:.1f} tokens/s"]
            lines += [f"{cost.tree}: {cost.step_s * 1000:.1f} ms a step" for cost in calibration.shapes]
            self._print(lines)

    def _set(self, rest: str) -> None:
        if rest:
            key, equals, value = rest.partition("=")
            key, value = key.strip(), value.strip()
            if not equals:
                raise UsageError(f"/set {rest}: needs KEY=VALUE")
            if key in ("draft", "draft_name"):
                raise UsageError("the draft is changed by /draft", hint="/draft RUN_OR_DIR")
            self.session.change(**{key: (value or None) if key == "system_prompt" else value})
        settings = self.session.settings.by_short_keys()
        self._answer("settings", settings, [f"{key} = {value!s}" for key, value in settings.items()])

    def _draft(self, rest: str) -> None:
        if rest:
            settings = self._meant(rest)
            self.session.change(draft=settings.draft, draft_name=settings.draft_name)
        if not self.as_json:
            self._print([f"decoding: {self.session.settings.label}"])

    def _meant(self, word: str) -> ChatSettings:
        """The present settings with what a word names instead: a tree, `plain`, or a draft."""
        settings = self.session.settings
        if word in ("plain", "none"):
            return with_draft(settings, None)
        if word.count("/") == 2 and word.replace("/", "").isdecimal():
            try:
                return settings.changed(tree=word)
            except ValidationError as error:
                raise UsageError(error.errors()[0]["msg"]) from None
        return with_draft(settings, find_draft(self.workbench, word, self.session.config.base.name))

    def _compare(self, rest: str) -> None:
        left, right, question = "plain", "", rest
        if "|" in rest:
            left, _, more = rest.partition("|")
            right, _, question = more.strip().partition(" ")
        one = self._meant(left.strip())
        other = self._meant(right) if right else self.session.settings
        self._follow(lambda: self.session.compare(question.strip(), one, other))
        comparison = self.session.comparison
        verdict = comparison.verdict if comparison is not None else None
        if verdict is not None:
            self._answer("verdict", verdict.to_json(), verdict_lines(verdict))

    def _edit(self, rest: str) -> None:
        number, _, text = rest.partition(" ")
        if not number.isdecimal():
            raise UsageError("/edit needs the number of a turn and its new text", hint="/history shows the numbers")
        self._follow(lambda: self.session.edit(int(number), text))

    def _history(self, _: str) -> None:
        for number, turn in enumerate(self.session.conversation.turns):
            self._print([f"{number} {turn.role}: {turn.text}"])

    def _save(self, rest: str) -> None:
        path = Path(rest).expanduser() if rest else conversation_folder() / f"{_file_name(self.session)}.json"
        self.session.save(path)
        note(f"saved to {path}")

    def _load(self, rest: str) -> None:
        if not rest:
            raise UsageError("/load needs a file")
        path = Path(rest).expanduser()
        kept = conversation_folder() / f"{rest}.json"
        conversation = ChatHistory.load(kept if not path.exists() and kept.exists() else path)
        self.session.replace_conversation(conversation)
        self._history("")

    def _quit(self, _: str) -> None:
        self.over = True


def _file_name(session: ChatSession) -> str:
    words = "".join(char if char.isalnum() else "-" for char in session.conversation.name.lower())
    return "-".join(part for part in words.split("-") if part)[:40] or "conversation"
