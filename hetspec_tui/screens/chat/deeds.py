"""What is chosen in a chat: settings, files, recorded answers, A/B and the simulator. Talking itself is in `talk`."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, ClassVar, cast

from textual import work

from hetspec_core.errors import UsageError
from hetspec_core.events.chat import ChatSettings
from hetspec_core.service import save_export
from hetspec_core.service.chat import (
    Answer,
    ChatHistory,
    SessionTotals,
    conversation_folder,
    saved_conversations,
    with_draft,
    with_served_draft,
)
from hetspec_core.service.traces import FORMATS, Trace, export, list_traces, load_trace
from hetspec_tui.dialogs import Prompt
from hetspec_tui.formatting import ago, safe
from hetspec_tui.picker import Choice, Choose, ChooseMany
from hetspec_tui.screens.chat import setup as setups
from hetspec_tui.screens.chat.playback import Playback
from hetspec_tui.screens.chat.setup import CHECKPOINT, NONE, OTHER, SERVED, SERVER_KEYS, Setup
from hetspec_tui.screens.chat.talk import ChatTalk

_PLAIN, _PRESENT = "plain", "present"


class ChatDeeds(ChatTalk):
    """A chat with everything that can be chosen in it."""

    playback: Playback
    LOOKING: ClassVar[frozenset[str]] = frozenset({"open_trace", "simulate"})

    # --- settings -----------------------------------------------------------------------------------------------------

    @work(group="dialog", exclusive=True)
    async def action_settings(self) -> None:
        """Choose what to change."""
        session = self.session
        if session is None:
            return
        choices = setups.setting_list(session.settings, self.setup, session.config.base.name)
        key = await self.app.push_screen_wait(Choose("Settings of the next answer", choices))
        if key is not None:
            await self._set(key)

    @work(group="dialog", exclusive=True)
    async def action_draft(self) -> None:
        """Choose the draft."""
        await self._set("draft")

    @work(group="dialog", exclusive=True)
    async def action_tree(self) -> None:
        """Choose the tree shape."""
        await self._set("tree")

    async def _set(self, key: str) -> None:
        if self.session is None:
            return
        if key == "draft":
            await self._set_draft()
        elif key in ("base", "backend", "recipe", *SERVER_KEYS):
            await self._set_worker(key)
        else:
            await self._set_value(key)

    async def _set_worker(self, key: str) -> None:
        assert self.session is not None
        present = self.session.config.base.name if key == "base" else getattr(self.setup, key)
        if key in SERVER_KEYS:
            hint = "http://HOST:PORT; empty: " + ("SGLang is started here" if key == "url" else "none")
            word = await self.app.push_screen_wait(Prompt("Which server?", present, hint))
        else:
            lists = {"base": setups.base_list, "backend": setups.backend_list, "recipe": setups.recipe_list}
            listed = await self.ask(lambda _: lists[key]())
            word = await self.app.push_screen_wait(Choose(f"Which {key}?", listed or [], present))
        if word is not None and word.strip() != present:
            if self.session.busy:
                self.show_error(UsageError("an answer is under way", hint="esc stops it"))
                return
            parts = {key: word.strip()}
            if key in ("base", "recipe", "url") or self.setup.draft == SERVED:
                parts["draft"] = ""  # the other base's newest, or the server's
            if key == "recipe":
                parts["base"] = ""
            self.begin(**parts)

    async def _set_draft(self) -> None:
        assert self.session is not None
        base, present = self.session.config.base.name, self.session.settings.draft or NONE
        url = self.setup.url if self.session.config.backend == setups.SGLANG else ""
        listed = await self.ask(lambda workbench: setups.draft_list(workbench, base, url))
        word = await self.app.push_screen_wait(Choose(f"Which draft for {base}?", listed or [], present))
        if word == CHECKPOINT:
            listed = await self.ask(lambda workbench: setups.checkpoint_list(workbench, base))
            empty = "no run on this base has a checkpoint"
            word = await self.app.push_screen_wait(Choose("Which checkpoint?", listed or [], present, empty=empty))
        elif word == OTHER:
            hint = "a train run, a checkpoint or an imported draft: id, name or path"
            word = await self.app.push_screen_wait(Prompt("Which draft?", hint=hint))
        if not word:
            return
        folder = None
        if word not in (NONE, SERVED):
            folder = await self.ask(lambda workbench: setups.draft_folder(workbench, word))
            if folder is None:
                return
        settings = self.session.settings
        changed = with_served_draft(settings, url) if word == SERVED else with_draft(settings, folder)
        self._change(draft=changed.draft, draft_name=changed.draft_name)
        self.setup = Setup.of(self.setup.to_json() | {"draft": word})

    async def _set_value(self, key: str) -> None:
        assert self.session is not None
        present = self.session.settings.by_short_keys()[key]
        text: str | None = OTHER
        if key == "tree":
            text = await self.app.push_screen_wait(Choose("Which tree?", setups.tree_list(present), present))
        if text == OTHER:
            hint = "depth/top_k/nodes, e.g. 5/4/20; a chain of four is 4/1/4" if key == "tree" else ""
            shown = "" if present is None else f"{present:g}" if isinstance(present, float) else f"{present}"
            text = await self.app.push_screen_wait(Prompt(key.replace("_", " "), shown, hint))
        if text is not None:
            try:
                self._change(**{key: setups.read_setting(key, text)})
            except UsageError as error:
                self.show_error(error)

    def _change(self, **values: Any) -> None:
        session = self.session
        if session is not None and self.order_quietly(lambda: session.change(**values)):
            kept = {key: value for key, value in values.items() if not key.startswith("draft")}
            self.setup = self.setup.changed(**kept)
            self.redraw()

    # --- conversations in files ---------------------------------------------------------------------------------------

    @work(group="dialog", exclusive=True)
    async def action_save(self) -> None:
        """Save the conversation."""
        session = self.session
        if session is None or not session.conversation.turns:
            self.notify("There is nothing to save yet.", timeout=3)
            return
        stem = re.sub(r"[^\w]+", "-", session.conversation.name).strip("-")[:40] or "chat"
        usual = conversation_folder() / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path = await self.app.push_screen_wait(Prompt("Save the conversation as", f"{usual}"))
        if path:

            def save(_: object) -> Path:
                session.save(Path(path).expanduser())
                return Path(path).expanduser()

            saved = await self.change(save)
            if saved is not None:
                self.notify(f"{saved}", title="Saved", timeout=4)

    @work(group="dialog", exclusive=True)
    async def action_load(self) -> None:
        """Go on with a saved conversation."""
        session = self.session
        if session is None:
            return

        def look(_: object) -> list[Choice]:
            now = time.time()
            files = saved_conversations(conversation_folder())
            return [Choice(f"{path}", path.stem, ago(now - path.stat().st_mtime)) for path in files]

        listed = [*(await self.ask(look) or []), Choice(OTHER, "another file…")]
        path = await self.app.push_screen_wait(Choose("Go on with which conversation?", listed))
        if path == OTHER:
            path = await self.app.push_screen_wait(Prompt("Which file?", hint="a conversation that was saved as JSON"))
        if not path:
            return
        found = await self.ask(lambda _: ChatHistory.load(Path(path).expanduser()))
        if found is not None and self.order_quietly(lambda: session.replace_conversation(found)):
            self.close_trace()
            self._turns.clear()
            self.composer.remember([turn.text for turn in found.turns if turn.role == "user"])
            self.redraw()

    # --- recorded answers ---------------------------------------------------------------------------------------------

    async def _traces(self) -> list[Choice]:
        now = time.time()
        found = await self.ask(lambda _: list_traces()) or []
        choices = []
        for one in found:
            length = f"{one.accept_length:.2f} tokens/step" if one.accept_length is not None else "every position"
            about = one.error or f"{one.label}  {one.steps} steps  {length}  {ago(max(0.0, now - one.created))} old"
            choices.append(Choice(one.word, one.name or one.word, about))
        return choices

    @work(group="dialog", exclusive=True)
    async def open_trace(self, word: str) -> None:
        """Look at this recorded answer."""
        trace = await self.ask(lambda _: load_trace(word))
        if trace is not None:
            self.show_trace(trace)

    @work(group="dialog", exclusive=True)
    async def action_open_trace(self) -> None:
        """Choose a recorded answer and look at it, step by step."""
        choices = await self._traces()
        word = await self.app.push_screen_wait(Choose("Which recorded answer?", choices, empty="none is recorded"))
        trace = await self.ask(lambda _: load_trace(word)) if word is not None else None
        if trace is not None:
            self.show_trace(trace)

    def show_trace(self, trace: Trace) -> None:
        """Look at a recorded answer, which begins to play."""
        self.trace, self.replayed, self.replay_meters = trace, Answer.of(trace), SessionTotals()
        self.replay_meters.add(self.replayed)
        self.playback.follow(self.replayed)
        self.playback.play(time.monotonic())
        self.query_one("#tree").focus()
        self.redraw()

    @work(group="dialog", exclusive=True)
    async def action_export(self) -> None:
        """Write the recorded answer that is looked at, or the one recorded last, to a file."""
        trace = self.trace
        last = self.session.recorder.last if self.session is not None else None
        if trace is None and last is not None:
            trace = await self.ask(lambda _: load_trace(f"{last}"))
        if trace is None:
            self.show_error(UsageError("there is no recorded answer", hint="o opens one; R records what is answered"))
            return
        about = {"svg": "the draft tree of this step", "html": "a page with all steps", "json": "everything"}
        form = await self.app.push_screen_wait(
            Choose("Export as", [Choice(form, form.upper(), about[form]) for form in FORMATS])
        )
        if form is None:
            return
        found, place = trace, self.playback.place
        step = found.steps[place].index if self.trace is not None and 0 <= place < len(found.steps) else None
        if form != "svg":
            step = None
        path = await self.change(
            lambda workbench: save_export(
                workbench, found.header.name or "answer", f".{form}", export(found, cast(Any, form), step=step)
            )
        )
        if path is not None:
            self.notify(f"{path}", title="Exported", timeout=6)

    @work(group="dialog", exclusive=True)
    async def action_simulate(self) -> None:
        """What other tree shapes would bring, from recorded answers."""
        from hetspec_tui.screens.chat.simulator import SimulatorScreen

        choices = await self._traces()
        if not choices:
            return
        words = [choices[0].key]
        if len(choices) > 1:
            chosen = await self.app.push_screen_wait(ChooseMany("Simulate from which answers?", choices, words))
            if not chosen:
                return
            words = chosen
        calibration = self.session.meters.calibration if self.session is not None else None
        await self.app.push_screen(SimulatorScreen(tuple(words), calibration, lambda tree: self._change(tree=tree)))

    # --- A/B ----------------------------------------------------------------------------------------------------------

    @work(group="dialog", exclusive=True)
    async def action_compare(self) -> None:
        """Ask the same two ways, side by side."""
        from hetspec_tui.screens.chat.duel import DuelScreen

        session = self.session
        if session is None:
            return
        if self.desk.read_only:
            self.ready()  # says why not
            return
        left = await self._way("A: the first way", _PLAIN)
        right = await self._way("B: the second way", _PRESENT) if left is not None else None
        if left is None or right is None:
            return
        turns = [turn for turn in session.conversation.turns if turn.role == "user"]
        usual = self.composer.text.strip() or (turns[-1].text if turns else "")
        question = await self.app.push_screen_wait(Prompt("Ask both", usual, f"A {left.label}   B {right.label}"))
        if question and self.order(lambda now: now.compare(question, left, right)) and self.session is not None:
            await self.app.push_screen(DuelScreen(self.session))

    async def _way(self, title: str, current: str) -> ChatSettings | None:
        session = self.session
        assert session is not None
        settings = session.settings
        choices = [Choice(_PLAIN, "plain decoding", "no draft")]
        if not settings.plain:
            choices.append(Choice(_PRESENT, settings.label, "as it is set"))
            choices += [
                Choice(tree, f"{settings.draft_name} {tree}", about)
                for tree, about in setups.TREES.items()
                if tree != settings.tree
            ]
        base = session.config.base.name
        drafts = await self.ask(lambda workbench: setups.draft_list(workbench, base)) or []
        choices += [
            Choice(one.key, f"{one.text} {settings.tree}", one.about)
            for one in drafts
            if one.key not in (NONE, OTHER, CHECKPOINT, settings.draft)
        ]
        choices.append(Choice(OTHER, "another…", "a tree, or a run, checkpoint or directory with a draft"))
        word = await self.app.push_screen_wait(Choose(safe(title), choices, current))
        if word == OTHER:
            hint = "a tree such as 3/2/6, or a draft: a run or a directory"
            word = await self.app.push_screen_wait(Prompt(title, hint=hint))
        if not word or not (word := word.strip()):
            return None
        if word == _PLAIN:
            return with_draft(settings, None)
        if word == _PRESENT:
            return settings
        if re.fullmatch(r"\d+/\d+/\d+", word):
            return settings.changed(tree=word)
        folder = await self.ask(lambda workbench: setups.draft_folder(workbench, word))
        return with_draft(settings, folder) if folder is not None else None
