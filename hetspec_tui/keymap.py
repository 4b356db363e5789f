"""The keys of all bindings by their ids, and what is wrong with a user's keymap. It knows classes, not screens.

Textual puts a user's key in the place of the one in the code, and lets the last of two on one key win silently; so
clashes are looked for here, before anybody presses a key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from textual.binding import Binding
from textual.dom import DOMNode

PACKAGES = ("hetspec_tui", "__main__")
"""The second is the app where it was started with `python -m`, as it is for a browser."""


def bound_classes(top: type[DOMNode] = DOMNode) -> Iterator[type[DOMNode]]:
    """The classes of the dashboard that have keys, as far as they are imported."""
    seen: set[type[DOMNode]] = set()
    left: list[type[DOMNode]] = [top]
    while left:
        for one in left.pop().__subclasses__():
            if one not in seen:
                seen.add(one)
                left.append(one)
                if one.__module__.partition(".")[0] in PACKAGES and "BINDINGS" in vars(one):
                    yield one


def own_bindings(node: type[DOMNode]) -> list[Binding]:
    """The bindings in the code of a class, one for each key."""
    return list(Binding.make_bindings(vars(node).get("BINDINGS", ())))


def check_keymap(keymap: Mapping[str, str], classes: Iterable[type[DOMNode]]) -> list[tuple[str, str]]:
    """What is wrong with a keymap: ids that nothing has, and two actions of one place on one key.

    Each is the id that it is said of, and the sentence.
    """
    nodes = [(node, own_bindings(node)) for node in classes]
    known = {binding.id for _, bindings in nodes for binding in bindings if binding.id}
    problems = [(name, f"no binding is called {name!r}{_meant(name, known)}") for name in keymap if name not in known]
    for node, bindings in nodes:
        keys: dict[str, dict[str, str]] = {}
        for binding in bindings:
            changed = keymap.get(binding.id or "")
            for key in [binding.key] if changed is None else changed.split(","):
                keys.setdefault(key, {})[binding.action] = binding.id or binding.description
        for key, owners in keys.items():
            changed_ids = [name for name in owners.values() if name in keymap]
            if len(owners) > 1 and changed_ids:
                said = f"{key} is the key of {' and of '.join(sorted(owners.values()))} in {node.__name__}"
                problems.append((changed_ids[0], said))
    return problems


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else "; `?` shows those there are"
