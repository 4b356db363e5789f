"""The questions before runs are written to a file: its name, whose suffix is the form, and whether to overwrite it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hetspec_core.errors import HetSpecError
from hetspec_tui.dialogs import Confirm, Prompt

if TYPE_CHECKING:
    from hetspec_core.service.export import Form
    from hetspec_tui.page import Page


async def ask_file(page: Page, what: str, usual: str) -> tuple[Path, Form] | None:
    """The file to write and its form; None when the user has left a question, or the name has no known suffix.

    Args:
        page: asks, and shows what is wrong.
        what: what is written, as in "Write WHAT to which file?".
        usual: name of the file that is proposed, in the present folder.
    """
    from hetspec_core.service.export import form_of

    hint = ".csv, .json or .md says in which form"
    name = await page.ask_user(Prompt(f"Write {what} to which file?", str(Path.cwd() / usual), hint))
    if not name or not name.strip():
        return None
    path = Path(name.strip()).expanduser()
    try:
        form = form_of(path)
    except HetSpecError as error:
        page.show_error(error)
        return None
    over = Confirm(f"Write over {path.name}?", f"{path} is there already.", yes="Write over")
    if path.exists() and not await page.ask_user(over):
        return None
    return path, form
