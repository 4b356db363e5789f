"""Keys and pastes act in the order in which they were typed, also when many arrive at once and while the app is busy.

Textual hands a key to the focused widget through that widget's queue, but runs a priority binding at once, and an
ordinary binding only after the key has gone through the queues of the widget and of everything above it. So a later key
can act before an earlier one: Enter sends a line without its last letters, letters behind Enter end up in the line that
it sends, and a list takes the choice of a filter that is half typed.

Here a key waits until everything before it has had its effect. A marker follows each key through the same queues; when
it comes back to the app, the key has been handled. Handling a key may post further messages (a filter has changed, a
screen is opened), so the marker goes round again until the queues are empty. Text for the focused input needs no such
wait: letters go through one queue and keep their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from textual import events
from textual.binding import Binding, BindingsMap, BindingType
from textual.message import Message
from textual.message_pump import MessagePump

if TYPE_CHECKING:
    from textual.app import App
    from textual.timer import Timer

    Base = App[None]
else:
    Base = object

FEWEST_ROUNDS = 2  # the first follows the key itself, the second the messages that its handler has posted
MOST_ROUNDS = 8  # a screen that is never quiet does not stop the keys
LOOK_S = 0.1  # between looks whether the marker is still under way
QUIT_AT_ONCE = "app.quit_now"
"""The binding that no other key delays, so that the dashboard can be left while a widget does not answer."""

Typed = events.Key | events.Paste


def keys_of(name: str, bindings: Iterable[BindingType], keymap: Mapping[str, str]) -> frozenset[str]:
    """The keys of the binding with id `name`, after a keymap (binding id -> keys, several with commas between)."""
    given = BindingsMap(bindings)
    given.apply_keymap(
        {
            binding_id: ",".join(binding.key for binding in Binding.make_bindings([Binding(keys, "")]))
            for binding_id, keys in keymap.items()
        }
    )
    return frozenset(key for key, made in given.key_to_bindings.items() if any(one.id == name for one in made))


class Passed(Message):
    """Follows a key: back at the app, it says that all queues on its way have handled what came before it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class KeyOrder(Base):
    """Mixed into the app: it passes keys and pastes on one after another.

    Attributes:
        quit_keys: the keys of the binding `QUIT_AT_ONCE`.
    """

    quit_keys: frozenset[str] = frozenset()

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._typed: deque[Typed] = deque()
        self._text_target: MessagePump | None = None  # the input that the last key was text for
        self._marker = 0  # number of the newest marker
        self._under_way = False
        self._route: tuple[MessagePump, ...] = ()
        self._rounds = 0  # that have come back since the last key
        self._watch: Timer | None = None

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded and not self._quits_at_once(event):
            self._typed.append(event)
            await self._pass_on()
        else:
            await super().on_event(event)

    def _quits_at_once(self, event: Typed) -> bool:
        return isinstance(event, events.Key) and event.key in self.quit_keys and bool(self.screen_stack)

    async def _pass_on(self) -> None:
        """Pass on what may act now, in order."""
        while self._typed and self.screen_stack:
            event, focused = self._typed[0], self.focused
            is_text = focused is not None and (
                isinstance(event, events.Paste) or focused.check_consume_key(event.key, event.character)
            )
            if not (is_text and focused is self._text_target) and not self._has_settled():
                self._send_marker()
                return
            self._typed.popleft()
            self._text_target = focused if is_text else None
            self._rounds = -1 if self._under_way else 0  # a marker that is on its way already is ahead of this key
            await super().on_event(event)
            self._send_marker()

    def _has_settled(self) -> bool:
        """Whether everything before the next key has had its effect."""
        if self._under_way or self._rounds < FEWEST_ROUNDS:
            return False
        return self._rounds >= MOST_ROUNDS or not any(node.message_queue_size for node in self._way())

    def _way(self) -> tuple[MessagePump, ...]:
        """The queues that a key goes through below the app."""
        return tuple(node for node in (self.focused or self.screen).ancestors_with_self if node is not self)

    def _send_marker(self) -> None:
        if self._under_way or not self.screen_stack:
            return
        self._marker += 1
        self._route = self._way()
        self._under_way = self._route[0].post_message(Passed(self._marker))
        if self._watch is None:
            self._watch = self.set_interval(LOOK_S, self._look_for_marker)

    async def on_passed(self, message: Passed) -> None:
        """A marker is back."""
        message.stop()
        if message.number != self._marker:
            return
        self._under_way = False
        self._rounds += 1
        await self._pass_on()
        if self._rounds < FEWEST_ROUNDS:
            self._send_marker()  # so that the next key finds everything settled

    async def _look_for_marker(self) -> None:
        """Send another marker when a widget on the way of the last one has been removed with it."""
        if self._under_way and all(node.is_running and node.is_attached for node in self._route):
            return
        if self._under_way or self._typed:
            self._under_way = False
            self._send_marker()
        elif self._watch is not None:
            self._watch.stop()
            self._watch = None
