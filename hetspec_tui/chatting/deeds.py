"""What the keys of the chat page do: the part of the page that asks people and orders the session about."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import work
from textual.content import Content
from textual.widgets import ContentSwitcher, Input, Static

from hetspec_core.errors import HetSpecError
from hetspec_tui.chatting import orders, words
from hetspec_tui.chatting.picture import ChatPicture
from hetspec_tui.dialogs import Prompt
from hetspec_tui.pickers import Choice, Choose

if TYPE_CHECKING:
    from hetspec_core.service.chat import ChatSession, Conversation
    from hetspec_core.service.traces import Trace

FORMS = (
    Choice("html", "html", "the whole answer as a page"),
    Choice("svg", "svg", "the tree that is shown"),
    Choice("json", "json", "every step as data"),
)


class ChatDeeds(ChatPicture):
    """Actions of the chat page; what they work on is made by the page."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        writing = isinstance(self.focused, Input)
        if action == "stop":  # what is not for this page goes to the app, which goes back
            busy = self.session is not None and self.session.busy
            left = self.query_one("#left", ContentSwitcher).current if self.query("#left") else ""
            return bool(busy or writing or self.player.trace or self.comparing or left == "prediction-box")
        if action == "history":
            return writing
        if action == "restart":
            return self.session is not None and self.session.state == "dead"
        return super().check_action(action, parameters)

    # --- answers ------------------------------------------------------------------------------------------------------

    def action_stop(self) -> None:
        """Stop what is under way; else leave the replay, the two sides, the prediction, or the line."""
        left = self.query_one("#left", ContentSwitcher)
        if self.session is not None and self.session.busy:
            self.session.stop()
        elif left.current == "prediction-box":
            left.current = "conversation" if self.session is not None or self.player.trace is not None else "welcome"
        elif self.player.trace is not None:
            self.player.follow(self.session.answer if self.session is not None else None)
            self.player.trace = None
            left.current = "conversation" if self.session is not None else "welcome"
        elif self.comparing:
            self.comparing = False
            left.current = "conversation"
        else:
            self.set_focus(self.draft_tree)
        self.draw()

    def action_write(self) -> None:
        self.set_focus(self.query_one("#question", Input))

    def action_history(self, by: int) -> None:
        """Bring an earlier question back into the line."""
        if self._asked:
            self._recalled = max(0, min(self._recalled + by, len(self._asked)))
            earlier = self._asked[self._recalled] if self._recalled < len(self._asked) else ""
            line = self.query_one("#question", Input)
            line.value, line.cursor_position = earlier, len(earlier)

    def action_again(self) -> None:
        self.order(lambda session: session.regenerate())

    @work(exclusive=True, group="chat-ask")
    async def action_edit(self) -> None:
        """Change the last question and have it answered anew."""
        turns = self.session.conversation.turns if self.session is not None else []
        places = [place for place, turn in enumerate(turns) if turn.role == "user"]
        if not places:
            return
        text = await self.app.push_screen_wait(Prompt("Ask instead", turns[places[-1]].text))
        if text:
            self.order(lambda session: session.edit(places[-1], text))

    def action_copy(self) -> None:
        """Copy the answer that is shown."""
        answer = self.player.answer
        if answer is not None:
            self.app.copy_to_clipboard(answer.text)
            self.notify("The answer is on the clipboard.", timeout=2)

    def action_markdown(self) -> None:
        self.markdown = not self.markdown
        self.draw()

    def action_calibrate(self) -> None:
        from hetspec_core.service.traces import CALIBRATION_TREES

        if self.order(lambda session: session.calibrate([session.settings.tree, *CALIBRATION_TREES])):
            self.notify("Plain decoding and a few trees are measured; esc stops it.", timeout=4)

    # --- settings -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="chat-ask")
    async def action_tree(self) -> None:
        await self._change("tree", "Tree: depth/top_k/num_draft_tokens", str)

    @work(exclusive=True, group="chat-ask")
    async def action_temperature(self) -> None:
        await self._change("temperature", "Temperature (0 is greedy)", float)

    @work(exclusive=True, group="chat-ask")
    async def action_system(self) -> None:
        await self._change("system_prompt", "System prompt (empty: none)", lambda text: text or None)

    async def _change(self, name: str, question: str, read: Any) -> None:
        if self.session is None:
            self.notify("nothing is loaded yet: ask something first", severity="warning")
            return
        now = getattr(self.session.settings, name)
        text = await self.app.push_screen_wait(Prompt(question, "" if now is None else str(now)))
        if text is None:
            return
        try:
            value = read(text.strip())
        except ValueError:
            self.notify(f"{name} is {text!r}; it needs a number", severity="error")
            return
        self.order(lambda session: session.change(**{name: value}))

    @work(exclusive=True, group="chat-ask")
    async def action_draft(self) -> None:
        """Another draft; base and conversation stay."""
        from hetspec_core.service.chat import draft_choices, with_draft

        recipe = self.recipe
        base = self.session.config.base.name if self.session is not None else None
        found = await self.ask(
            lambda workbench: orders.draft_choices(
                draft_choices(workbench, base or orders.base_name(workbench, recipe))
            )
        )
        if found is None:
            return
        chosen = await self.app.push_screen_wait(Choose("Draft", found))
        if chosen is None:
            return
        if self.session is None:
            self.wanted_draft = chosen
            self.draw()
            return
        folder = None if chosen == orders.NO_DRAFT else Path(chosen)
        settings = with_draft(self.session.settings, folder)
        self.order(lambda session: session.change(draft=settings.draft, draft_name=settings.draft_name))

    @work(exclusive=True, group="chat-ask")
    async def action_base(self) -> None:
        """Another base: another session, because the base of a worker stays the same."""
        found = await self.ask(orders.recipe_choices)
        if found is None:
            return
        chosen = await self.app.push_screen_wait(Choose("Recipe whose base and draft to talk to", found))
        if chosen is not None:
            self.recipe, self.wanted_draft = chosen, None
            self.open_session(fresh=True)
            self.draw()

    # --- A/B ----------------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="chat-ask")
    async def action_compare(self) -> None:
        """The same question two ways: now, against plain decoding, another tree or another draft."""
        from hetspec_core.service.chat import with_draft

        session = self.session
        if session is None:
            self.notify("nothing is loaded yet: ask something first", severity="warning")
            return
        hint = "`plain`, a tree such as 3/2/6, or a run or directory with a draft; it answers on the left"
        other = await self.app.push_screen_wait(Prompt("Compare the present way with", "plain", hint))
        if not other:
            return
        last = next((turn.text for turn in reversed(session.conversation.turns) if turn.role == "user"), "")
        text = await self.app.push_screen_wait(Prompt("Question for both", last))
        if not text:
            return
        left, word = session.settings, other.strip()
        if word == "plain":
            left = with_draft(left, None)
        elif word.replace("/", "").isdecimal() and word.count("/") == 2:
            left = left.model_copy(update={"tree": word})
        else:
            folder = await self.ask(lambda workbench: workbench.resolve_input(word, "draft"))
            if folder is None:
                return
            left = with_draft(left, folder)
        if self.order(lambda session: session.compare(text, left, session.settings)):
            self.comparing = True
            self.draw()

    # --- traces -------------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="chat-ask")
    async def action_replay(self) -> None:
        """A recorded answer, step by step, without a model."""
        from hetspec_core.service.traces import list_traces

        found = await self.ask(lambda workbench: orders.trace_choices(list_traces()))
        if found is None:
            return
        chosen = await self.app.push_screen_wait(Choose("Recorded answer", found))
        if chosen is not None:
            self.open_trace(chosen)

    @work(exclusive=True, group="chat-trace")
    async def open_trace(self, word: str) -> None:
        """Replay a recorded answer."""
        from hetspec_core.service.traces import load_trace

        trace: Trace | None = await self.ask(lambda workbench: load_trace(word))
        if trace is not None:
            self.trace_word = word
            self.player.load(trace)
            self.set_focus(self.draft_tree)
            self.draw()

    def action_step(self, by: int) -> None:
        self.player.go(by)
        self.draw()

    def action_pause(self) -> None:
        if self.player.trace is not None:
            self.player.playing = not self.player.playing
            self.player.place = None if self.player.playing else self.player.place
        else:
            self.player.place = None if self.player.place is not None else len(self.player.steps) - 1
        self.draw()

    def action_speed(self, by: int) -> None:
        self.player.faster(by)
        self.draw()

    def recorded_word(self) -> str:
        """The recorded answer that is meant now: the replayed one, else the newest of this session."""
        if self.player.trace is not None:
            return self.trace_word
        last = self.session.recorder.last if self.session is not None else None
        return str(last) if last is not None else ""

    def action_record(self) -> None:
        """Record every answer from now on, or no more."""
        from hetspec_core.service.chat.recorder import Recorder
        from hetspec_core.service.traces import trace_folder

        self.record = not self.record
        if self.session is not None and not self.session.busy:
            self.session.recorder = Recorder(trace_folder() if self.record else None)
        self.notify("Answers are recorded." if self.record else "Answers are not recorded.", timeout=2)
        self.draw()

    @work(exclusive=True, group="chat-trace")
    async def action_simulate(self) -> None:
        """What other trees would have done with the recorded answer."""
        word = self.recorded_word() or "shipped:smollm2"
        calibration = self.session.meters.calibration if self.session is not None else None
        box = self.query_one("#prediction", Static)
        self.query_one("#left", ContentSwitcher).current = "prediction-box"
        box.update(Content.styled("predicting...", "$foreground-muted"))
        found = await self.ask(lambda workbench: orders.predict(word, calibration))
        if found is None:
            self.query_one("#left", ContentSwitcher).current = "welcome" if self.session is None else "conversation"
            return
        lines = words.prediction_lines(found, word if word.startswith("shipped:") else Path(word).stem, 60)
        if calibration is None:
            lines.append(Content.styled("no tokens/s: k measures this machine's steps first", "$foreground-muted"))
        box.update(Content("\n").join(lines))

    @work(exclusive=True, group="chat-ask")
    async def action_export(self) -> None:
        """Write the recorded answer to a file."""
        word = self.recorded_word()
        if not word:
            self.notify("Nothing is recorded: R records answers, o opens one.", severity="warning")
            return
        form = await self.app.push_screen_wait(Choose("Export as", FORMS))
        if form is None:
            return
        shown = self.player.shown
        step = shown.index if shown is not None and form == "svg" else None
        path = await self.change(lambda workbench: orders.export_trace(workbench, word, form, step))
        if path is not None:
            self.notify(str(path), title="Written")

    # --- conversations ------------------------------------------------------------------------------------------------

    def action_new(self) -> None:
        self.order(lambda session: session.replace_conversation())

    @work(exclusive=True, group="chat-ask")
    async def action_save(self) -> None:
        """Write the conversation to a file."""
        from hetspec_core.service.chat import conversation_folder

        session = self.session
        if session is None or not session.conversation.turns:
            self.notify("there is no conversation yet", severity="warning")
            return
        proposed = conversation_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
        name = await self.app.push_screen_wait(Prompt("Save the conversation to", str(proposed)))
        if name:
            path = Path(name).expanduser()
            await self.change(lambda workbench: session.save(path))
            self.notify(str(path), title="Saved")

    @work(exclusive=True, group="chat-ask")
    async def action_load(self) -> None:
        """Go on with a saved conversation."""
        from hetspec_core.service.chat import Conversation, conversation_folder, saved_conversations

        if self.session is None:
            self.notify("nothing is loaded yet: ask something first", severity="warning")
            return
        files = await self.ask(lambda workbench: saved_conversations(conversation_folder()))
        choices = [Choice(str(path), path.stem) for path in files or ()]
        chosen = await self.app.push_screen_wait(Choose("Conversation", choices, empty="none is saved: S saves one"))
        if chosen is None:
            return
        found: Conversation | None = await self.ask(lambda workbench: Conversation.load(Path(chosen)))
        if found is not None:
            self.order(lambda session: session.replace_conversation(found))

    # --- the worker ---------------------------------------------------------------------------------------------------

    def action_restart(self) -> None:
        self.order(lambda session: session.restart())

    @work(exclusive=True, group="chat-open")
    async def action_free(self) -> None:
        """End the worker; its memory is free within two seconds, the recorded answers stay."""
        session, self.session = self.session, None
        self.comparing = False
        self.player.follow(None)
        if session is not None:
            await self.close_session(session)
            self.notify("The models are out of memory.", timeout=2)
        self.query_one("#left", ContentSwitcher).current = "welcome"
        self.draw()

    async def close_session(self, session: ChatSession) -> None:
        """Close a session without holding the screen up."""
        try:
            await asyncio.to_thread(session.close)
        except HetSpecError as error:
            self.show_error(error)
