"""Static key/value caches with room for a tree, and a length of its own for every row.

A cache is a table of slots per row. Slots below the row's length hold committed tokens; a forward writes its tokens to
slots that the caller names, so tree nodes lie behind the committed ones until `keep` moves the accepted ones forward.
It knows nothing of trees, models or sampling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

SLOT_STEP = 64  # keys are read up to a multiple of this, so that shapes repeat


class SlotTables:
    """Tables of keys and values that several caches of one batch size fill one after the other.

    Attributes:
        held: per row the tokens that the last answers left, as `SlotCache.hold` was told; None = nothing is known.
    """

    def __init__(self) -> None:
        self._tables: dict[tuple[str, int], Tensor] = {}
        self.held: list[list[int]] | None = None

    def take(self, name: str, layer: int, states: Tensor, num_rows: int, capacity: int) -> Tensor:
        """A table [num_rows, kv_heads, capacity or more, d] for states [R, kv_heads, T, d] of a layer.

        Its content is old; a longer table begins with that of the shorter one. It is never a part of a larger one: a
        compiled program that writes to a part may go on with a dense copy, and a kernel that was given the strides of
        the part then reads other slots.
        """
        shape = (num_rows, states.shape[1], capacity, states.shape[3])
        before = self._tables.get((name, layer))
        alike = before is not None and before.shape == (*shape[:2], before.shape[2], shape[3])
        if before is not None and alike and before.shape[2] >= capacity:
            return before
        table = self._tables[name, layer] = states.new_zeros(shape)
        if before is not None and alike:
            table[:, :, : before.shape[2]] = before
        return table

    def gives(self, name: str, layer: int, table: Tensor) -> bool:
        """Whether a table [rows, kv_heads, slots, d] is the one that `take` gives."""
        return self._tables.get((name, layer)) is table


class LayerSlots:
    """The tables of one layer with the slots that are staged; an attention layer takes it for the cache.

    Args:
        keys, values: [B or more, kv_heads, capacity, d].
        targets: [R, 1] rows that are written.
        slots: [R, T] slots that are written.
        rows: B, rows that are read.
        visible: slots that are read; 0 = none.
        some: [R] rows that are read in place of the first B, copied out of the tables; None = those.
    """

    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        targets: Tensor,
        slots: Tensor,
        rows: int,
        visible: int,
        some: Tensor | None = None,
    ) -> None:
        self.keys, self.values, self.targets, self.slots = keys, values, targets, slots
        self.rows, self.visible, self.some = rows, visible, some

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As `SlotCache.update`, for the one layer: [R, kv_heads, T, d] in, those to attend to out."""
        device = self.keys.device  # of a base that is spread over several, not always that of the slots
        targets, slots = self.targets.to(device), self.slots.to(device)
        self.keys[targets, :, slots] = key_states.transpose(1, 2)
        self.values[targets, :, slots] = value_states.transpose(1, 2)
        if not self.visible:
            return key_states, value_states
        if self.some is not None:
            some = self.some.to(device)
            return self.keys[:, :, : self.visible][some], self.values[:, :, : self.visible][some]
        return self.keys[: self.rows, :, : self.visible], self.values[: self.rows, :, : self.visible]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused: positions are always given."""
        return 0


class SlotCache(Cache):
    """Key/value cache of B rows with `capacity` slots each, allocated when the first keys arrive.

    Args:
        num_rows: B.
        capacity: slots of a row.
        device: of the lengths.
        fixed: every forward reads all slots, so that shapes never change and the host need not know the lengths.
        fused: one kernel moves the tokens that `keep` keeps in all tables; needs Triton and a GPU.
        tables: where the tables come from; None = they are its own.

    Attributes:
        lengths: [B] int64, committed tokens per row; changed in place.
        host_lengths: the same on the host, as far as `count` was told.
    """

    def __init__(
        self,
        num_rows: int,
        capacity: int,
        device: torch.device | str,
        *,
        fixed: bool = False,
        fused: bool = False,
        tables: SlotTables | None = None,
    ) -> None:
        super().__init__(layers=[])  # the tables are ours: one tensor per layer, rows with lengths of their own
        self.num_rows = num_rows
        self.capacity = capacity
        self.fixed, self.fused = fixed, fused
        self._source = tables or SlotTables()
        self._moves: list[tuple[Tensor, Tensor]] = []  # pointers to the tables of one shape, and one of them
        self.host_lengths = [0] * num_rows
        self.lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._rows = torch.arange(num_rows, device=device)[:, None]
        self._keys: dict[int, Tensor] = {}  # by number of the layer
        self._values: dict[int, Tensor] = {}
        self._slots = torch.zeros(num_rows, 0, dtype=torch.int64, device=device)
        self._visible = 0
        self._some: Tensor | None = None
        self._targets = self._rows

    def stage(self, slots: Tensor, *, visible: int, rows: Tensor | None = None) -> None:
        """Say where the next forward writes and how many slots it reads.

        Args:
            slots: [R, T] slot of each token.
            visible: the forward attends to slots 0..visible-1 (a mask says which of them); 0 = only to its own tokens,
                for whole sequences into empty rows.
            rows: [R] rows of the cache that the forward's batch stands for; all when absent.
        """
        if visible > self.capacity:
            raise ValueError(f"{visible} slots wanted, the cache has {self.capacity}")
        self._slots = slots
        self._visible = visible
        self._some = rows
        self._targets = self._rows if rows is None else rows[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Called by attention layers: store [R, kv_heads, T, d] keys and values, return those to attend to."""
        if layer_idx not in self._keys:
            shape = (self.num_rows, self.capacity)
            self._keys[layer_idx] = self._source.take("keys", layer_idx, key_states, *shape)
            self._values[layer_idx] = self._source.take("values", layer_idx, value_states, *shape)
        return self.part(layer_idx).update(key_states, value_states)

    @property
    def outgrown(self) -> dict[int, int]:
        """Bytes of its tables, by their address, that their source gives to nobody else: it has longer ones now."""
        tables = (("keys", self._keys), ("values", self._values))
        return {
            table.data_ptr(): table.nbytes
            for name, of_layers in tables
            for layer, table in of_layers.items()
            if not self._source.gives(name, layer, table)
        }

    def part(self, layer_idx: int) -> LayerSlots:
        """What a forward needs of the tables of one layer, which are there."""
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        return LayerSlots(keys, values, self._targets, self._slots, self.num_rows, self._visible, self._some)

    def keep(self, path: Tensor, counts: Tensor, host_counts: list[int] | None = None) -> None:
        """Commit tree tokens: move the accepted ones behind the committed ones.

        Args:
            path: [B, D+1] offsets behind the row's length of the tokens to keep, in order (0 = root); entries from
                `counts` on are ignored.
            counts: [B] how many are kept.
            host_counts: the same on the host, or None: `count` says it later.
        """
        if self.fused:
            self._move(path, counts)
        else:
            self._copy(path, counts)
        self.advance(counts, host_counts)

    def _move(self, path: Tensor, counts: Tensor) -> None:
        from hetspec_core.engine.modeling.kernels import move_slots, table_pointers

        if not self._moves:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for table in (*self._keys.values(), *self._values.values()):
                shapes.setdefault(table.shape, []).append(table)
            self._moves = [(table_pointers(tables), tables[0]) for tables in shapes.values()]
        for pointers, table in self._moves:
            move_slots(pointers, table, self.lengths, path, counts)

    def _copy(self, path: Tensor, counts: Tensor) -> None:
        order = torch.arange(path.shape[1], device=path.device)
        source = self.lengths[:, None] + path
        target = self.lengths[:, None] + order
        # Behind the kept ones the copy goes from a slot to itself: shapes stay fixed and nothing is lost.
        source = torch.where(order < counts[:, None], source, target)
        limit = self.capacity - 1
        source, target = source.clamp(max=limit), target.clamp(max=limit)
        for table in (*self._keys.values(), *self._values.values()):
            rows, to, of = (index.to(table.device) for index in (self._rows, target, source))
            table[rows, :, to] = table[rows, :, of]

    def advance(self, counts: Tensor, host_counts: list[int] | None = None) -> None:
        """Count [B] tokens right behind the committed ones as committed; `host_counts` as in `keep`."""
        self.lengths.add_(counts)
        if host_counts is not None:
            self.count(host_counts)

    def count(self, host_counts: list[int]) -> None:
        """Say on the host what `advance` or `keep` was told on the device."""
        self.host_lengths = [length + count for length, count in zip(self.host_lengths, host_counts, strict=True)]

    def hold(self, rows: list[list[int]]) -> None:
        """Say for whoever fills the tables next what they hold now.

        Args:
            rows: per row the tokens of prompt and answer. The last one counts only as the token behind the others.
        """
        self._source.held = None if self.outgrown else rows

    def take_held(self, prompts: list[list[int]]) -> list[int]:
        """How many tokens at the start of each prompt the tables hold; from now on nothing is known of them.

        The token behind those is the old one as well, because a draft reads a token together with the one before it.
        One token of a prompt at least is not held.
        """
        held, self._source.held = self._source.held, None
        if held is None or len(held) != len(prompts) or self.outgrown:
            return [0] * len(prompts)
        return [max(0, _common(old, prompt) - 1) for old, prompt in zip(held, prompts, strict=True)]

    def clear(self) -> None:
        """Forget all rows; the tables stay."""
        self.lengths.zero_()
        self.host_lengths = [0] * self.num_rows
        self._source.held = None

    def restart(self, lengths: list[int]) -> None:
        """Every row now holds so many committed tokens, of other sequences or of longer ones; the tables stay."""
        self.lengths.copy_(torch.tensor(lengths))
        self.host_lengths = list(lengths)
        self._source.held = None

    def reset_row(self, row: int, length: int) -> None:
        """Row `row` now holds `length` committed tokens of another sequence."""
        self.host_lengths[row] = length
        self.lengths[row] = length
        self._source.held = None

    def drop_row(self, row: int) -> None:
        """Give a row up: the last row takes its place and the cache is one row smaller."""
        last = self.num_rows - 1
        if row != last:
            for table in (*self._keys.values(), *self._values.values()):
                table[row] = table[last]
            self.host_lengths[row] = self.host_lengths[last]
            self.lengths[row] = self.lengths[last]
        self.num_rows = last
        self.host_lengths.pop()
        self.lengths = self.lengths[:last]
        self._rows = self._rows[:last]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Unused: positions are always given."""
        return 0

    def visible_for(self, extra: int) -> int:
        """Slots to read when every row has `extra` more tokens than committed, rounded up to SLOT_STEP."""
        if self.fixed:
            return self.capacity
        need = max(self.host_lengths) + extra
        return min(self.capacity, -(-need // SLOT_STEP) * SLOT_STEP)

    def prefix_mask(self, visible: int) -> Tensor:
        """[B, visible] bool: slots that hold committed tokens."""
        return torch.arange(visible, device=self.lengths.device) < self.lengths[:, None]


def _common(one: list[int], other: list[int]) -> int:
    """Tokens at the start that two sequences have in common."""
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)
