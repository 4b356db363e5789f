"""`hetspec-core trace`: recorded answers without a model: list, show, replay, export, and predict other tree shapes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hetspec_core.cli.chat_view import AnswerPrinter, figure_lines, show_end, tree_lines
from hetspec_core.cli.console import console, format_number, note, print_data, print_json, print_line
from hetspec_core.cli.options import DEFAULT_RECIPE, DraftOption, JsonFlag, RecipeOption, trees_of
from hetspec_core.errors import CorruptFileError, NotFoundError, StageFailed, UsageError
from hetspec_core.events.chat import Calibrated, Step, Tokens, decode_replies
from hetspec_core.files import write_output
from hetspec_core.service.chat.answer import Answer
from hetspec_core.service.chat.meters import SessionTotals
from hetspec_core.service.chat.session import ChatSession
from hetspec_core.service.chat.setup import chat_config
from hetspec_core.service.traces.files import FORMATS, Format, as_data, list_traces, load_trace
from hetspec_core.service.traces.files import export as export_trace
from hetspec_core.service.traces.simulation import CALIBRATION_TREES, Costs, read_positions
from hetspec_core.service.traces.simulation import simulate as run_simulation
from hetspec_core.service.workbench import Workbench
from hetspec_core.spec import TreeSpec
from hetspec_core.terminal_text import ascii_escapes

if TYPE_CHECKING:
    from hetspec_core.service.traces.simulation import Prediction

app = typer.Typer(no_args_is_help=True)

TraceWord = Annotated[str, typer.Argument(metavar="TRACE", help="File, recorded name, or shipped:NAME.")]


@app.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the shipped traces and those recorded by `chat --record`."""
    found = list_traces()
    if json:
        print_json([one.to_json() for one in found])
        return
    for one in found:
        if one.error:
            print_line(f"{one.word}  {one.error}")
            continue
        length = "every position" if one.every_position else "plain"
        if one.accept_length is not None:
            length = f"accept length {one.accept_length:.2f}"
        end = "" if one.complete else ", cut off"
        print_line(f"{one.word}  {one.label}, {one.tokens} tokens, {length}{end}: {one.name}")


@app.command()
def show(
    trace: TraceWord,
    step: Annotated[int | None, typer.Option(min=0, help="Show the tree of this verify step.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show a trace: question, answer and figures, or the tree of one step."""
    found = load_trace(trace)
    answer = Answer.of(found)
    if step is not None:
        tree = next((tree for tree in answer.trees if tree.index == step), None)
        if tree is None:
            raise NotFoundError(f"{trace} has no step {step} with a tree; it has {len(answer.trees)} trees, from 0")
        if json:
            print_json(tree.model_dump(mode="json"))
            return
        for line in tree_lines(tree):
            print_line(line)
        return
    if json:
        print_json(as_data(found))
        return
    for message in found.header.messages:
        print_line(f"{message.role}: {message.content}")
    printer = AnswerPrinter(marks=True)
    printer.show(answer)
    printer.finish()
    meters = SessionTotals()
    meters.add(answer)
    for line in figure_lines(meters.figures(answer, answer.settings.label)):
        print_line(line)


@app.command()
def replay(
    trace: TraceWord,
    speed: Annotated[float, typer.Option(min=0, help="Times as fast as it was; 0 = at once.")] = 1.0,
    trees: Annotated[bool, typer.Option("--trees", help="Show the tree of every step.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show a recorded answer as it appeared, without a model."""
    found = load_trace(trace)
    answer, printer, before = Answer.empty(found), AnswerPrinter(), 0.0
    for reply in found.replies:
        if isinstance(reply, Tokens | Step):
            if speed > 0:
                time.sleep(max(0.0, reply.elapsed_s - before) / speed)
            before = reply.elapsed_s
        answer.apply(reply)
        if json:
            print_json(reply.model_dump(mode="json"), lines=True)
            continue
        printer.show(answer)
        if trees and isinstance(reply, Step) and reply.tree is not None:
            printer.finish()
            for line in tree_lines(reply.tree):
                print_line(line)
    if not json:
        printer.finish()
        show_end(answer, SessionTotals().figures(answer, answer.settings.label))


@app.command()
def export(
    trace: TraceWord,
    form: Annotated[str, typer.Option("--format", help="svg (one step), html (all), or json.")] = "html",
    step: Annotated[int | None, typer.Option(min=0, help="Step for svg; the longest path when absent.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; stdout when absent.")] = None,
) -> None:
    """Write a trace as SVG, HTML or JSON."""
    known: dict[str, Format] = {one: one for one in FORMATS}
    chosen = known.get(form)
    if chosen is None:
        raise UsageError(f"--format is {form}; allowed: {', '.join(FORMATS)}")
    text = export_trace(load_trace(trace), chosen, step=step)
    if output is None:
        print_data(ascii_escapes(text) if chosen == "json" else text)
        return
    write_output(output, text)
    note(f"written to {output}")


@app.command()
def simulate(
    traces: Annotated[list[str], typer.Argument(metavar="TRACE...", help="Files, recorded names, or shipped:NAME.")],
    tree: Annotated[list[str], typer.Option(help="Shape to try; may be repeated. A grid when absent.")] = [],  # noqa: B006
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure step costs here first, with the base and a draft.")
    ] = False,
    costs: Annotated[Path | None, typer.Option(help="File with a `calibrated` event, instead of measuring.")] = None,
    recipe: RecipeOption = DEFAULT_RECIPE,
    draft: DraftOption = None,
    top: Annotated[int, typer.Option(min=1, help="Lines of the table.")] = 15,
    json: JsonFlag = False,
) -> None:
    """Predict accept length (and tokens/s) of other tree shapes from recorded trees; see docs/traces.md."""
    answers = [read_positions(load_trace(word), word) for word in traces]
    shapes = [TreeSpec(**shape) for shape in trees_of(tree) or []] or None
    calibration = _read_costs(costs) if costs is not None else None
    if calibrate:
        calibration = _calibrate(recipe, draft, list(tree))
    found = run_simulation(answers, shapes, Costs(calibration) if calibration is not None else None)
    if json:
        about = None if calibration is None else calibration.model_dump(mode="json")
        print_json({**found.to_json(), "calibration": about})
        return
    table = found.predictions if shapes else found.frontier
    if not shapes:
        note("shapes that no cheaper one beats, cheapest first")
    console().print(f"{'tree':>10} {'accept':>7} {'certain':>8} {'own':>5} {'step':>9} {'tokens/s':>9} {'x plain':>8}")
    for one in table[: max(top, len(shapes or ()))]:
        console().print(_row(one))
    if found.best is not None:
        words = f"best: {found.best.shape.label}, accept length {found.best.accept_length:.2f}"
        if found.best.tokens_per_s is not None:
            words += f", {format_number(found.best.tokens_per_s)} tokens/s predicted"
        console().print(words)
    if any(one.extrapolated for one in table):
        note("* = larger than what was recorded: at best a lower bound")
    if any(one.own_trees < 1 for one in table):
        note("own < 100 %: record with --every-position to have a tree at every position")


def _row(one: Prediction) -> str:
    mark = "*" if one.extrapolated else " "
    step = f"{one.step_s * 1000:.1f} ms" if one.step_s is not None else "-"
    speed = f"{one.tokens_per_s:.1f}" if one.tokens_per_s is not None else "-"
    ratio = f"{one.speedup:.2f}" if one.speedup is not None else "-"
    return (
        f"{one.shape.label:>10}{mark}{one.accept_length:>7.2f} {one.certain:>8.0%} {one.own_trees:>5.0%} "
        f"{step:>9} {speed:>9} {ratio:>8}"
    )


def _read_costs(path: Path) -> Calibrated:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read: {error.strerror or error}") from error
    found: list[Any] = [reply for reply in decode_replies(lines) if isinstance(reply, Calibrated)]
    if not found:
        raise CorruptFileError(
            f"{path} has no `calibrated` event", hint="write one: echo /calibrate | hetspec-core chat --json > FILE"
        )
    return found[-1]


def _calibrate(recipe: str, draft: str | None, trees: list[str]) -> Calibrated:
    with Workbench() as workbench:
        config = chat_config(workbench, recipe, draft=draft)
    for text in config.notes:
        note(text)
    with ChatSession(config, trees=False) as session:
        session.start()
        while session.state == "loading":
            session.wait()
        if session.state == "ready":
            note("measuring step costs ...")
            session.calibrate(list(dict.fromkeys([*CALIBRATION_TREES, *trees])), tokens=12)
            for _ in session.events():
                pass
        if session.meters.calibration is None:
            why = session.death.message if session.death else "nothing was measured"
            if session.problem is not None:
                why = session.problem.error.message
            raise StageFailed(why, hint="see `hetspec-core doctor`")
        return session.meters.calibration
