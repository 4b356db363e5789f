"""What can be chosen in the chat: settings, saved conversations, recorded answers, A/B and the tree simulator."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any, cast

from hetspec_core.errors import UsageError
from hetspec_core.events.chat_settings import ChatSettings
from hetspec_core.service.chat.conversation import ChatHistory, conversation_folder, saved_conversations
from hetspec_core.service.chat.setup import with_draft, with_served_draft
from hetspec_core.service.export import save_export
from hetspec_core.service.traces.files import FORMATS, export, list_traces, load_trace
from hetspec_tui.dialogs import Choice, Choose, ChooseMany, Prompt
from hetspec_tui.formatting import ago, safe
from hetspec_tui.page import Page
from hetspec_tui.screens.chat import setup as setups
from hetspec_tui.screens.chat.conversation import ChatConversation, ChatView
from hetspec_tui.screens.chat.setup import CHECKPOINT, NONE, OTHER, SERVED, SERVER_KEYS, Setup

_PLAIN, _PRESENT = "plain", "present"


class ChatCommands:
    """The commands of the page of the chat that ask the user to choose something.

    Args:
        page: asks the desk and the user.
        view: draws the chat.
        conversation: the session that is changed.
    """

    def __init__(self, page: Page, view: ChatView, conversation: ChatConversation) -> None:
        self._page, self._view, self._talk = page, view, conversation

    # --- settings -----------------------------------------------------------------------------------------------------

    async def settings(self) -> None:
        session = self._talk.session
        if session is None:
            return
        choices = setups.setting_list(session.settings, self._talk.setup, session.config.base.name)
        key = await self._page.ask_user(Choose("Settings of the next answer", choices))
        if key is not None:
            await self._set(key)

    async def draft(self) -> None:
        await self._set("draft")

    async def tree(self) -> None:
        await self._set("tree")

    async def _set(self, key: str) -> None:
        if self._talk.session is None:
            return
        if key == "draft":
            await self._set_draft()
        elif key in ("base", "backend", "recipe", *SERVER_KEYS):
            await self._set_worker(key)
        else:
            await self._set_value(key)

    async def _set_worker(self, key: str) -> None:
        assert self._talk.session is not None
        present = self._talk.session.config.base.name if key == "base" else getattr(self._talk.setup, key)
        if key in SERVER_KEYS:
            hint = "http://HOST:PORT; empty: " + ("SGLang is started here" if key == "url" else "none")
            word = await self._page.ask_user(Prompt("Which server?", present, hint))
        else:
            lists = {"base": setups.base_list, "backend": setups.backend_list, "recipe": setups.recipe_list}
            listed = await self._page.ask(lambda _: lists[key]())
            word = await self._page.ask_user(Choose(f"Which {key}?", listed or [], present))
        if word is not None and word.strip() != present:
            if self._talk.session.busy:
                self._page.show_error(UsageError("an answer is under way", hint="esc stops it"))
                return
            parts = {key: word.strip()}
            if key in ("base", "recipe", "url") or self._talk.setup.draft == SERVED:
                parts["draft"] = ""  # the other base's newest, or the server's
            if key == "recipe":
                parts["base"] = ""
            self._talk.begin(**parts)

    async def _set_draft(self) -> None:
        assert self._talk.session is not None
        base, present = self._talk.session.config.base.name, self._talk.session.settings.draft or NONE
        url = self._talk.setup.url if self._talk.session.config.backend == setups.SGLANG else ""
        listed = await self._page.ask(lambda workbench: setups.draft_list(workbench, base, url))
        word = await self._page.ask_user(Choose(f"Which draft for {base}?", listed or [], present))
        if word == CHECKPOINT:
            listed = await self._page.ask(lambda workbench: setups.checkpoint_list(workbench, base))
            empty = "no run on this base has a checkpoint"
            word = await self._page.ask_user(Choose("Which checkpoint?", listed or [], present, empty=empty))
        elif word == OTHER:
            hint = "a train run, a checkpoint or an imported draft: id, name or path"
            word = await self._page.ask_user(Prompt("Which draft?", hint=hint))
        if not word:
            return
        folder = None
        if word not in (NONE, SERVED):
            folder = await self._page.ask(lambda workbench: setups.draft_folder(workbench, word))
            if folder is None:
                return
        settings = self._talk.session.settings
        changed = with_served_draft(settings, url) if word == SERVED else with_draft(settings, folder)
        self._change(draft=changed.draft, draft_name=changed.draft_name)
        self._talk.setup = Setup.of(self._talk.setup.to_json() | {"draft": word})

    async def _set_value(self, key: str) -> None:
        assert self._talk.session is not None
        present = self._talk.session.settings.by_short_keys()[key]
        text: str | None = OTHER
        if key == "tree":
            text = await self._page.ask_user(Choose("Which tree?", setups.tree_list(present), present))
        if text == OTHER:
            hint = "depth/top_k/nodes, e.g. 5/4/20; a chain of four is 4/1/4" if key == "tree" else ""
            shown = "" if present is None else f"{present:g}" if isinstance(present, float) else f"{present}"
            text = await self._page.ask_user(Prompt(key.replace("_", " "), shown, hint))
        if text is not None:
            try:
                self._change(**{key: setups.read_setting(key, text)})
            except UsageError as error:
                self._page.show_error(error)

    def _change(self, **values: Any) -> None:
        session = self._talk.session
        if session is not None and self._talk.order_quietly(lambda: session.change(**values)):
            kept = {key: value for key, value in values.items() if not key.startswith("draft")}
            self._talk.setup = self._talk.setup.changed(**kept)
            self._view.redraw()

    async def save(self) -> None:
        session = self._talk.session
        if session is None or not session.conversation.turns:
            self._page.notify("There is nothing to save yet.", timeout=3)
            return
        stem = re.sub(r"[^\w]+", "-", session.conversation.name).strip("-")[:40] or "chat"
        usual = conversation_folder() / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}.json"
        path = await self._page.ask_user(Prompt("Save the conversation as", f"{usual}"))
        if path:

            def save(_: object) -> Path:
                session.save(Path(path).expanduser())
                return Path(path).expanduser()

            saved = await self._page.change(save)
            if saved is not None:
                self._page.notify(f"{saved}", title="Saved", timeout=4)

    async def load(self) -> None:
        session = self._talk.session
        if session is None:
            return

        def look(_: object) -> list[Choice]:
            now = time.time()
            files = saved_conversations(conversation_folder())
            return [Choice(f"{path}", path.stem, ago(now - path.stat().st_mtime)) for path in files]

        listed = [*(await self._page.ask(look) or []), Choice(OTHER, "another file…")]
        path = await self._page.ask_user(Choose("Go on with which conversation?", listed))
        if path == OTHER:
            path = await self._page.ask_user(Prompt("Which file?", hint="a conversation that was saved as JSON"))
        if not path:
            return
        found = await self._page.ask(lambda _: ChatHistory.load(Path(path).expanduser()))
        if found is not None and self._talk.order_quietly(lambda: session.replace_conversation(found)):
            self._view.close_trace()
            self._view.forget_turns()
            self._view.composer.remember([turn.text for turn in found.turns if turn.role == "user"])
            self._view.redraw()

    # --- recorded answers ---------------------------------------------------------------------------------------------

    async def _traces(self) -> list[Choice]:
        now = time.time()
        found = await self._page.ask(lambda _: list_traces()) or []
        choices = []
        for one in found:
            length = f"{one.accept_length:.2f} tokens/step" if one.accept_length is not None else "every position"
            about = one.error or f"{one.label}  {one.steps} steps  {length}  {ago(max(0.0, now - one.created))} old"
            choices.append(Choice(one.word, one.name or one.word, about))
        return choices

    async def show_recorded(self, word: str) -> None:
        trace = await self._page.ask(lambda _: load_trace(word))
        if trace is not None:
            self._view.show_trace(trace)

    async def open_trace(self) -> None:
        """Choose a recorded answer and look at it, step by step."""
        choices = await self._traces()
        word = await self._page.ask_user(Choose("Which recorded answer?", choices, empty="none is recorded"))
        if word is not None:
            await self.show_recorded(word)

    async def export(self) -> None:
        """Write the recorded answer that is looked at, or the one recorded last, to a file."""
        trace = self._view.trace
        last = self._talk.session.recorder.last if self._talk.session is not None else None
        if trace is None and last is not None:
            trace = await self._page.ask(lambda _: load_trace(f"{last}"))
        if trace is None:
            self._page.show_error(
                UsageError("there is no recorded answer", hint="o opens one; R records what is answered")
            )
            return
        about = {"svg": "the draft tree of this step", "html": "a page with all steps", "json": "everything"}
        form = await self._page.ask_user(
            Choose("Export as", [Choice(form, form.upper(), about[form]) for form in FORMATS])
        )
        if form is None:
            return
        found, place = trace, self._view.playback.place
        step = found.steps[place].index if self._view.trace is not None and 0 <= place < len(found.steps) else None
        if form != "svg":
            step = None
        path = await self._page.change(
            lambda workbench: save_export(
                workbench, found.header.name or "answer", f".{form}", export(found, cast(Any, form), step=step)
            )
        )
        if path is not None:
            self._page.notify(f"{path}", title="Exported", timeout=6)

    async def simulate(self) -> None:
        from hetspec_tui.screens.chat.simulator import SimulatorScreen

        choices = await self._traces()
        if not choices:
            return
        words = [choices[0].key]
        if len(choices) > 1:
            chosen = await self._page.ask_user(ChooseMany("Simulate from which answers?", choices, words))
            if not chosen:
                return
            words = chosen
        calibration = self._talk.session.meters.calibration if self._talk.session is not None else None
        await self._page.app.push_screen(
            SimulatorScreen(tuple(words), calibration, lambda tree: self._change(tree=tree))
        )

    async def compare(self) -> None:
        from hetspec_tui.screens.chat.ab_test import ABTestScreen

        session = self._talk.session
        if session is None:
            return
        if self._page.desk.read_only:
            self._talk.ready()  # says why not
            return
        left = await self._way("A: the first way", _PLAIN)
        right = await self._way("B: the second way", _PRESENT) if left is not None else None
        if left is None or right is None:
            return
        turns = [turn for turn in session.conversation.turns if turn.role == "user"]
        usual = self._view.composer.text.strip() or (turns[-1].text if turns else "")
        question = await self._page.ask_user(Prompt("Ask both", usual, f"A {left.label}   B {right.label}"))
        if (
            question
            and self._talk.order(lambda now: now.compare(question, left, right))
            and self._talk.session is not None
        ):
            await self._page.app.push_screen(ABTestScreen(self._talk.session))

    async def _way(self, title: str, current: str) -> ChatSettings | None:
        session = self._talk.session
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
        drafts = await self._page.ask(lambda workbench: setups.draft_list(workbench, base)) or []
        choices += [
            Choice(one.key, f"{one.text} {settings.tree}", one.about)
            for one in drafts
            if one.key not in (NONE, OTHER, CHECKPOINT, settings.draft)
        ]
        choices.append(Choice(OTHER, "another…", "a tree, or a run, checkpoint or directory with a draft"))
        word = await self._page.ask_user(Choose(safe(title), choices, current))
        if word == OTHER:
            hint = "a tree such as 3/2/6, or a draft: a run or a directory"
            word = await self._page.ask_user(Prompt(title, hint=hint))
        if not word or not (word := word.strip()):
            return None
        if word == _PLAIN:
            return with_draft(settings, None)
        if word == _PRESENT:
            return settings
        if re.fullmatch(r"\d+/\d+/\d+", word):
            return settings.changed(tree=word)
        folder = await self._page.ask(lambda workbench: setups.draft_folder(workbench, word))
        return with_draft(settings, folder) if folder is not None else None
