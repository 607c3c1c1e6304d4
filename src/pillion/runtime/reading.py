"""Follows sequences through the model and keeps one small fold state for each.

A reading is shown hidden states, taps them, folds the values, and reads out verdicts when asked.
Fold states live beside the KV cache whose tokens they cover, so chunks, decoding steps and several
caches in turn are exact. Knows no engine.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Step
from pillion.core import Verdict
from pillion.errors import ConfigError, StateError
from pillion.probe import Artefact
from pillion.probe.network import State, join, pick
from pillion.runtime.group import Group, group, spread
from pillion.runtime.held import Held

HELD_TOKENS = 16
"""Chunks up to this many tokens (all rows) are tapped in one go after the last layer: their states
are a few kilobytes a layer, and few large operations beat many small ones."""

FOLDED_TOKENS = 512
"""Chunks up to this many tokens (all rows) keep the values of all layers, a few megabytes, and fold
them in one go; a longer chunk folds each layer where it is seen. (On a processor; see `Held`.)"""


_NO_STEP = Step(torch.zeros(0, 0, dtype=torch.bool), None, 0)


@dataclass(frozen=True)
class Track:
    """How far a sequence batch has been read.

    Attributes:
        num_tokens: positions seen, padding included (the length of the KV cache).
        num_rows: sequences in the batch.
        states: a fold state a group, since the last cut; None right after one.
        prompt: the states after the first pass.
    """

    num_tokens: int
    num_rows: int
    states: tuple[State, ...] | None
    prompt: tuple[State, ...]


@dataclass(frozen=True)
class Segments:
    """Where each position of a packed batch goes."""

    rows: Int[Tensor, " chunk"]
    places: Int[Tensor, " chunk"]
    mask: Bool[Tensor, "row place"]


class Reading:
    """Verdicts of what the model is reading. A `Watcher`; made by `attach`.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
    """

    def __init__(
        self, artefacts: Sequence[Artefact], device: torch.device, dtype: torch.dtype
    ) -> None:
        names = [a.name for a in artefacts]
        if len(set(names)) != len(names):
            raise ConfigError(f"Probe names must differ; got {', '.join(names)}. Rename a folder.")
        self.artefacts = {a.name: a for a in artefacts}
        self.groups = group(artefacts, device, dtype)
        self.layers = tuple(sorted({layer for g in self.groups for layer in g.layers}))
        self._place = [{layer: i for i, layer in enumerate(g.layers)} for g in self.groups]
        self._tracks: weakref.WeakKeyDictionary[object, Track] = weakref.WeakKeyDictionary()
        self._track: Track | None = None
        self._step = _NO_STEP
        self._before: Track | None = None
        self._segments: Segments | None = None
        self._held = Held(device, HELD_TOKENS)
        self._sums: list[tuple[tuple[int, ...], Tensor]] = []
        self._values: list[Tensor | None] = []
        self._folded: list[list[State]] = []
        self._cache: weakref.ref[object] | None = None
        self._own: weakref.ref[object] | None = None
        self._passing = False

    # -- what the backend calls, in the order of time

    def start(self, step: Step) -> None:
        """A pass begins: finds the track that it goes on from.

        Raises:
            StateError: if the KV cache holds tokens that this reading never saw.
        """
        self._passing = self._own is not None and step.cache is not self._own()
        if self._passing:
            return
        self._step, self._sums = step, []
        self._held.clear()
        self._folded = [[] for _ in self.groups]
        num_tokens = step.mask.numel()
        together = num_tokens <= FOLDED_TOKENS and not self._held.holds(num_tokens)
        self._values = [
            g.empty_values(len(g.layers), *step.mask.shape) if together and g.tapped else None
            for g in self.groups
        ]
        self._before = self._tracks.get(step.cache) if step.past_tokens else None
        if step.past_tokens and (
            self._before is None or self._before.num_tokens != step.past_tokens
        ):
            raise StateError(
                f"The KV cache holds {step.past_tokens} tokens, but the probes have read "
                f"{self._before.num_tokens if self._before else 0} of them; attach the probes "
                "before the prompt runs, and do not rewind the cache."
            )
        if self._before is not None and self._before.num_rows != len(step.mask):
            raise StateError(
                f"The batch has {len(step.mask)} rows, but the probes have read "
                f"{self._before.num_rows} with this KV cache; repeat the rows before the prompt "
                "runs, and do not go on from a packed batch."
            )
        self._segments = _segments(step) if step.segments is not None else None

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Taps a layer, or holds it until there are several."""
        if self._passing:
            return
        hidden = hidden.detach()
        if self._held.holds(self._step.mask.numel()):
            if self._held.add(layer, hidden):
                self._fold_held()
            return
        for i, (one, place) in enumerate(zip(self.groups, self._place, strict=True)):
            index, room = place.get(layer), self._values[i]
            if index is None:
                continue
            values = one.layer_values(index, hidden, None if room is None else room[index])
            if room is None:
                self._fold(i, (layer,), values)

    def end(self, cache: object | None) -> None:
        """The pass is over: what was folded is merged with what was read before.

        Raises:
            StateError: if a hidden state was not finite, naming layer and token.
        """
        if self._passing:
            return
        if self._held:
            self._fold_held()
        for i, values in enumerate(self._values):
            if values is not None:
                self._fold(i, self.groups[i].layers, values)
        self._check()
        new = tuple(join(states) for states in self._folded)
        self._values, self._folded = [], []
        old = self._before
        if old is None:
            rows = len(self._step.mask if self._segments is None else self._segments.mask)
            self._track = Track(self._step.mask.shape[1], rows, new, new)
        else:
            states = new
            if old.states is not None:
                states = tuple(
                    g.fold.merge(one, two)
                    for g, one, two in zip(self.groups, old.states, new, strict=True)
                )
            tokens = old.num_tokens + self._step.mask.shape[1]
            self._track = replace(old, num_tokens=tokens, states=states)
        self._before, self._step = None, _NO_STEP  # a step would keep its KV cache alive
        self._cache = None
        if cache is not None:
            self._tracks[cache], self._cache = self._track, weakref.ref(cache)

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """The rows of a KV cache were reordered or repeated (beam search does that)."""
        track = self._tracks.get(cache)
        if track is None or (self._own is not None and cache is not self._own()):
            return
        self._cache = weakref.ref(cache)
        self._tracks[cache] = self._track = replace(
            track,
            num_rows=len(rows),
            states=track.states and tuple(pick(s, rows) for s in track.states),
            prompt=tuple(pick(s, rows) for s in track.prompt),
        )

    # -- what the user calls

    def cut(self) -> None:
        """Verdicts from here on are of what follows only: the response apart from the prompt."""
        if self._track is None:
            return
        self._track = replace(self._track, states=None)
        cache = self._cache() if self._cache else None
        if cache is not None:
            self._tracks[cache] = self._track

    def stay(self) -> None:
        """From here on only passes through the last pass's KV cache are read, others ignored."""
        self._own = self._cache

    def probabilities(self) -> dict[str, Float[Tensor, "batch output"]]:
        """Probabilities a probe of what was read since the last cut; empty if nothing was."""
        if self._track is None or self._track.states is None:
            return {}
        return self._read_out(self._track.states)

    def verdicts(self) -> list[dict[str, Verdict]]:
        """One mapping a batch row: probe name -> verdict of what was read since the last cut."""
        return self._verdicts(self.probabilities())

    def prompt_verdicts(self) -> list[dict[str, Verdict]]:
        """Verdicts of the first pass over the current batch: the prompt, if it was not cut up."""
        return self._verdicts(self._read_out(self._track.prompt) if self._track else {})

    @property
    def held_bytes(self) -> int:
        """Memory held now for the sequences being followed, in bytes."""
        track = self._track
        kept = [*(track.states or ()), *track.prompt] if track else []
        tensors = {id(t): t for state in kept for t in state.values()}
        tensors |= {id(t): t for t in self._values if t is not None}
        tensors |= {id(t): t for g in self._folded for s in g for t in s.values()}
        tensors |= {id(t): t for _, t in self._sums}
        return self._held.num_bytes + sum(t.nbytes for t in tensors.values())

    # -- inside

    def _fold_held(self) -> None:
        """Taps and folds all layers that are held at once."""
        layers, every = self._held.take()
        for i, one in enumerate(self.groups):
            if (found := one.own_values(layers, every)) is not None:
                self._fold(i, *found)

    def _fold(
        self, group_id: int, layers: tuple[int, ...], values: Float[Tensor, "layer batch chunk tap"]
    ) -> None:
        """Folds the values of some of a group's layers."""
        self._sums.append((layers, values.sum(-1)))
        if values.device.type == "cpu":
            self._check()
        self._folded[group_id].append(self._summarise(self.groups[group_id], values))

    def _summarise(self, one: Group, values: Float[Tensor, "layer batch chunk tap"]) -> State:
        if self._segments is None:
            return one.fold.summarise(values, self._step.mask)
        where = self._segments
        return one.fold.summarise(spread(values, where.rows, where.places, where.mask), where.mask)

    def _check(self) -> None:
        """A state that is not finite makes the sum of its token's values so.

        An accelerator is asked once a pass, as whoever asks it waits for all that it has to do.
        """
        folded, self._sums = self._sums, []
        if not folded or bool(torch.cat([sums.flatten() for _, sums in folded]).sum().isfinite()):
            return
        for layers, sums in folded:
            wrong = ~sums.isfinite() & self._step.mask
            for index, row, token in wrong.nonzero().tolist()[:1]:
                if self._segments is not None:
                    row, token = int(self._segments.rows[token]), int(self._segments.places[token])
                raise StateError(
                    f"Hidden states of layer {layers[index]} are not finite at token "
                    f"{self._step.past_tokens + token} of row {row}: the model gave NaN or "
                    "infinity. Use another dtype (--dtype float32 or bfloat16)."
                )

    def _read_out(self, states: tuple[State, ...]) -> dict[str, Float[Tensor, "batch output"]]:
        named: dict[str, Float[Tensor, "batch output"]] = {}
        for one, state in zip(self.groups, states, strict=True):
            for artefact, logits in zip(one.artefacts, one.logits(state), strict=True):
                named[artefact.name] = artefact.probabilities(logits)
        return {name: named[name] for name in self.artefacts}

    def _verdicts(
        self, probs: Mapping[str, Float[Tensor, "batch output"]]
    ) -> list[dict[str, Verdict]]:
        rows = {name: p.tolist() for name, p in probs.items()}
        count = len(next(iter(rows.values()))) if rows else 0
        return [
            {name: self.artefacts[name].verdict(p[i]) for name, p in rows.items()}
            for i in range(count)
        ]


def _segments(step: Step) -> Segments:
    assert step.segments is not None
    rows = step.segments
    lengths = torch.bincount(rows)
    starts = lengths.cumsum(0) - lengths
    places = torch.arange(len(rows), device=rows.device) - starts[rows]
    mask = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]
    return Segments(rows, places, mask)
