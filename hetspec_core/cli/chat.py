"""`hetspec-core chat`: talk to base and draft in a plain terminal or a pipe; questions on stdin, answers on stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hetspec_core.cli.options import (
    BACKEND_OPTIONS,
    DraftOption,
    FileOption,
    FirstOrOption,
    JsonFlag,
    SavedOption,
    SetOption,
    SpecValues,
    recipe_and_texts,
    spec_options,
    with_backend,
)
from hetspec_core.cli.output import console, note, print_json
from hetspec_core.cli.streams import read_stdin_line
from hetspec_core.errors import Cancelled, DataError, StageFailed, UsageError

if TYPE_CHECKING:
    from hetspec_core.cli.chat_commands import Talk
    from hetspec_core.service.chat import ChatSession

app = typer.Typer()


@app.command()
@spec_options(
    {
        "--plain": "decoding.plain",
        "--tree": "decoding.tree",
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
    given: SpecValues,
    system: Annotated[str | None, typer.Option("--system", help="System prompt.")] = None,
    load: Annotated[Path | None, typer.Option("--load", help="Conversation to go on with.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write a trace of every answer.")] = False,
    record_to: Annotated[
        Path | None, typer.Option("--record-to", help="Folder of the traces; implies --record.")
    ] = None,
    every_position: Annotated[
        bool, typer.Option("--every-position", help="Commit one token per step, so that a trace suits the simulator.")
    ] = False,
    overrides: SetOption = [],  # noqa: B006 - Typer reads the default, nobody changes it
    file: FileOption = None,
    json: JsonFlag = False,
) -> None:
    """Chat with a base and its draft: accepted tokens in colour, /tree, /stats, /ab, /set and more; see /help."""
    from hetspec_core.cli.chat_commands import Talk
    from hetspec_core.service import Workbench
    from hetspec_core.service.chat import ChatHistory, ChatSession, chat_config
    from hetspec_core.service.traces import trace_folder

    recipe, questions = recipe_and_texts(questions or [], recipe, saved)
    plain = given.pop("decoding.plain", False)
    conversation = ChatHistory.load(load) if load is not None else None
    with Workbench() as workbench:
        config = chat_config(
            workbench,
            recipe,
            draft=draft,
            saved=saved,
            plain=plain,
            overrides=overrides,
            options=with_backend(given),
            file=file,
        )
        for text in config.notes:
            note(text)
        folder = record_to or (trace_folder() if record else None)
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
        _enable_editing()
    asked = 0
    while not talk.over:
        try:
            if questions:
                if asked == len(questions):
                    break
                line = questions[asked]
            else:
                line = _read_line() if talk.piped else input("> ")
        except EOFError:
            break
        except KeyboardInterrupt:  # at the prompt
            raise Cancelled("the chat was ended") from None
        asked += 1
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
    """In a pipe nobody can restart or shorten: what went wrong is the end."""
    answer = session.answer
    if session.state == "dead" and session.death is not None:
        raise StageFailed(session.death.message, hint=session.death.hint + f"; log: {session.death.log}")
    if answer is not None and answer.state == "refused":
        raise DataError(answer.error, hint=answer.hint)
    if answer is not None and answer.state == "failed":
        raise StageFailed(answer.error, hint=answer.hint)


def _read_line() -> str:
    line = read_stdin_line()
    if line is None:
        raise EOFError
    return line


def _enable_editing() -> None:
    """Line editing and history at the prompt, where Python has it."""
    try:
        import readline  # noqa: F401 - importing it is what enables it
    except ImportError:
        return
