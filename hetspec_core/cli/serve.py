"""`hetspec-core serve`: base and draft behind a server of SGLang, as a run; every flag after `--` is SGLang's."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.console import note, print_json, print_line
from hetspec_core.cli.follow import PlainView, launch, launch_detached
from hetspec_core.cli.options import (
    DraftOption,
    GpusOption,
    JsonFlag,
    RecipeArgument,
    SpecOptions,
    spec_options,
)
from hetspec_core.errors import Cancelled, StageFailed
from hetspec_core.service.drafts import find_draft
from hetspec_core.service.workbench import Workbench

if TYPE_CHECKING:
    from hetspec_core.events import Event

app = typer.Typer()
_LOOK_S = 0.5


@app.command()
@spec_options(
    {
        "--name": "name",
        "--plain": "decoding.plain",
        "--tree": "decoding.tree",
        "--draft-vocab": "decoding.draft_vocab",
        "--port": "sglang.port",
        "--host": "sglang.host",
        "--sglang-python": "sglang.python",
    }
)
def serve(
    *,
    recipe: RecipeArgument,
    flags: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- FLAG...]", help="Flags of SGLang's server, passed on as they are."),
    ] = None,
    draft: DraftOption = None,
    given: SpecOptions,
    gpus: GpusOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running; `runs cancel` ends it.")] = False,
    json: JsonFlag = False,
) -> None:
    """Serve a base and its draft by SGLang; prints the URL and lines to paste into a client."""
    given.values |= {
        "backend": "sglang",
        "sglang.flags": list(flags) if flags else None,
        "sglang.tp_size": gpus or None,
        "resources.num_gpus": gpus,
    }
    with Workbench() as workbench:
        asked = given.resolve_with_draft(
            workbench, recipe, "serve", lambda spec: find_draft(workbench, draft, spec.base.name, say=note)
        )
        if detach:
            served = _await(workbench, launch_detached(workbench, asked, quiet=json))
            if json:
                print_json(served)
            else:
                print_served(served)
            return
        try:
            launch(workbench, asked, view=ServeView(as_json=json))
        except Cancelled:
            note("the server was stopped")


def _await(workbench: Workbench, run_id: str) -> dict[str, Any]:
    """The result of a detached server, once it is ready.

    Raises:
        StageFailed: it ended before that.
    """
    while True:
        report = workbench.show(run_id)
        if "serve" in report.results:
            return {"run_id": run_id, **report.results["serve"]}
        if report.summary.state in ("failed", "cancelled", "lost", "succeeded"):
            reason = (report.summary.error or {}).get("message", report.summary.state)
            raise StageFailed(f"run {run_id} ended before it served: {reason}", hint=f"see `runs show {run_id}`")
        time.sleep(_LOOK_S)


def print_served(served: dict[str, Any]) -> None:
    """Print where a server is and how to use it."""
    tree = "plain" if served["tree"] is None else "steps, topk, draft tokens " + ", ".join(map(str, served["tree"]))
    for line in (
        f"SGLang {served['version']} serves {served['model']} ({tree}) at",
        served["url"],
        *served["clients"],
    ):
        print_line(line)


class ServeView(PlainView):
    """Progress on stderr; the server's address on stdout when it is ready."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def show(self, event: Event) -> None:
        """Print an event; the result is the address."""
        if event.type != "result":
            super().show(event)
        elif self._as_json:
            print_json(event.data, lines=True)
        else:
            self.flush()
            print_served(event.data)
            note("Ctrl-C stops it")
