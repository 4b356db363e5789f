"""`hetspec-core generate`: answer prompts, the text as it appears on stdout, everything else on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.console import format_number, note, print_json, print_text, read_stdin
from hetspec_core.cli.follow import PlainView, launch
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
from hetspec_core.errors import UsageError
from hetspec_core.events import Text
from hetspec_core.service.saved import measured_draft
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.events import Event

app = typer.Typer()


@app.command()
@spec_options(
    {
        "--name": "name",
        "--plain": "decoding.plain",
        "--tree": "decoding.tree",
        "--draft-vocab": "decoding.draft_vocab",
        "--max-new-tokens": "decoding.max_new_tokens",
        "--temperature": "decoding.sampling.temperature",
        "--top-k": "decoding.sampling.top_k",
        "--top-p": "decoding.sampling.top_p",
        "--seed": "decoding.sampling.seed",
        "--ignore-eos": "decoding.ignore_eos",
        **BACKEND_OPTIONS,
    }
)
def generate(
    *,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[RECIPE] PROMPT",
            help="Recipe preset, then one or more prompts; a prompt of - is read from stdin.",
        ),
    ],
    recipe: FirstOrOption = None,
    draft: DraftOption = None,
    saved: SavedOption = None,
    given: SpecOptions,
    json: JsonFlag = False,
) -> None:
    """Answer prompts with a base and its draft; losslessly, so the draft changes the speed and not the text.

    The first word names the recipe, as in every command. It is a prompt if no recipe has that name, or if --recipe or
    --from names what to load.
    """
    recipe, prompts = recipe_and_texts(words, recipe, saved)
    if not prompts:
        raise UsageError(
            f"{words[0]} is the name of a recipe, and there is no prompt",
            hint=f'type hetspec-core generate {words[0]} "your question"; to ask about that word, add --recipe',
        )
    texts = [read_stdin() if prompt == "-" else prompt for prompt in prompts]
    for number, (prompt, text) in enumerate(zip(prompts, texts), 1):
        if not text.strip():
            raise UsageError(f"prompt {number} is empty" + (" (read from stdin)" if prompt == "-" else ""))
    given.values["prompts"] = texts
    with Workbench() as workbench:
        asked = given.resolve_with_draft(
            workbench,
            recipe,
            "generate",
            lambda spec: measured_draft(workbench, draft, saved, spec, say=note),
            saved=saved,
        )
        view = None if json else AnswerView(several=len(texts) > 1)
        report = launch(workbench, asked, quiet=json, view=view)
    answers: list[dict[str, Any]] = report.results["generate"]["answers"]
    if json:
        print_json({"run_id": report.summary.run_id, "answers": answers})
        return
    for answer in answers:
        note(_figures(answer))


def _figures(answer: dict[str, Any]) -> str:
    parts = [f"{len(answer['tokens'])} tokens ({answer['stop_reason']})"]
    if answer["decode_tokens_per_s"] is not None:
        parts.append(f"{format_number(answer['decode_tokens_per_s'])} tokens/s after the first")
    if answer["accept_length"] is not None:
        parts.append(f"accept length {answer['accept_length']:.2f} over {answer['verify_steps']} verify steps")
    if tree := answer.get("tree"):
        parts.append(f"tree auto took {tree}")
    if size := answer.get("draft_vocab_size"):
        parts.append(f"draft vocabulary {size:,}")
    return ", ".join(parts)


class AnswerView(PlainView):
    """Writes pieces of answers to stdout as they come; the rest is printed as by `PlainView`, without progress."""

    def __init__(self, *, several: bool) -> None:
        super().__init__()
        self._several = several
        self._prompt = -1

    def show(self, event: Event) -> None:
        """Write a piece of text, or pass over what only a log needs."""
        if isinstance(event, Text):
            if event.prompt != self._prompt:
                if self._prompt >= 0:
                    print_text("\n\n")
                if self._several:
                    print_text(f"[{event.prompt + 1}] ")
                self._prompt = event.prompt
            print_text(event.text)
        elif event.type in ("log", "run_ended"):
            super().show(event)

    def note(self, message: str) -> None:
        """Print nothing: only the answer is shown."""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self._prompt >= 0:
            print_text("\n")
