"""Follows sequences through the model and keeps one small fold state for each.

A reading is shown hidden states, taps them, folds the values, and reads out verdicts when asked.
Fold states live beside the KV cache whose tokens they cover, so chunks, decoding steps and several
caches in turn are exact. Knows no engine.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pillion.backends import Step
from pillion.core import ANSWER_SCOPES, SCOPES, Scope, TextLike, Tokens, Verdict
from pillion.errors import ConfigError, StateError
from pillion.probe import Artefact
from pillion.probe.group import MOST_CHOSEN, group
from pillion.probe.network import State, first_layers, inverse_rms, inverse_rms_of, join
from pillion.runtime.held import HeldLayers
from pillion.runtime.padding import pad_batch
from pillion.runtime.read_state import Counts, ReadState, States
from pillion.runtime.scope_masks import Masks, ScopeMasks
from pillion.runtime.tapped_tokens import TappedTokens

HELD_TOKENS = 16
"""Chunks up to this many tokens (all rows) are tapped in one go after the last layer: their states
are a few kilobytes a layer, and few large operations beat many small ones."""

FOLDED_TOKENS = 512
"""Chunks up to this many tokens (all rows) keep the values of all layers, a few megabytes, and fold
them in one go; a longer chunk folds each layer where it is seen. (On a CPU; see `HeldLayers`.)"""

Tapped = tuple[int, tuple[int, ...], Float[Tensor, "layer batch chunk tap"]]
"""A group's number, some of its layers and their values."""

_NO_STEP = Step(torch.zeros(0, 0, dtype=torch.bool), None, 0)


class Reading:
    """Verdicts of what the model is reading. A `Watcher`; made by `attach`.

    Args:
        artefacts: the probes; their names must differ.
        device: where the model runs.
        dtype: of the model's states.
        reasoning: tokens around the reasoning in an answer, which scopes leave out.
        encode: tokens of a text or conversation, for `encode`; None if they are told otherwise.
    """

    def __init__(
        self,
        artefacts: Sequence[Artefact],
        device: torch.device,
        dtype: torch.dtype,
        reasoning: tuple[int, int] | None = None,
        encode: Callable[[TextLike], Tokens] | None = None,
    ) -> None:
        self.artefacts = {a.name: a for a in artefacts}
        self.groups = group(artefacts, device, dtype)
        self.layers = tuple(sorted({layer for g in self.groups for layer in g.layers}))
        self._place = [{layer: i for i, layer in enumerate(g.layers)} for g in self.groups]
        self._row = {layer: i for i, layer in enumerate(self.layers)}
        self._read_states: weakref.WeakKeyDictionary[object, ReadState] = (
            weakref.WeakKeyDictionary()
        )
        self._read_state: ReadState | None = None
        self._step = _NO_STEP
        self._last: Step | None = None
        self._before: ReadState | None = None
        self._packed: TappedTokens | None = None
        self._device, self._reasoning, self._encode = device, reasoning, encode
        some = {g.scope for g in self.groups if g.scope != "all"}
        self._scopes: tuple[Scope, ...] = tuple(scope for scope in SCOPES if scope in some)
        self._told: tuple[Sequence[Tokens], bool] | None = None
        self._scope_masks: ScopeMasks | None = None
        self._masks: Masks = {}
        self._chosen: TappedTokens | None = None
        self._counts: Counts = {}
        self._idle: frozenset[int] = frozenset()
        self._held = HeldLayers(device, HELD_TOKENS)
        self._sums: list[tuple[tuple[int, ...], TappedTokens | None, Tensor]] = []
        self._values: list[Tensor | None] = []
        self._norms: Float[Tensor, "layer batch chunk"] | None = None
        self._folded: list[list[State]] = []
        self._cache: weakref.ref[object] | None = None
        self._own: weakref.ref[object] | None = None
        self._passing = False

    # -- what the backend calls, in the order of time

    def start(self, step: Step) -> None:
        """A pass begins: finds the read_state that it goes on from.

        Raises:
            StateError: if the KV cache holds tokens that this reading never saw.
        """
        own = None if self._own is None else self._own()
        self._passing = self._own is not None and (own is None or step.cache is not own)
        if self._passing:
            return
        step = self._same_place(step)
        self._step, self._sums = step, []
        self._held.clear()
        self._folded = [[] for _ in self.groups]
        self._before = self._read_states.get(step.cache) if step.past_tokens else None
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
        self._packed = TappedTokens.packed(step) if step.sequences is not None else None
        self._listen(step)
        self._choose()
        num_tokens = step.mask.numel()
        together = num_tokens <= FOLDED_TOKENS and not self._held.holds(num_tokens)
        self._values = [
            g.empty_values(len(g.layers), *self._shape())
            if together and i not in self._idle
            else None
            for i, g in enumerate(self.groups)
        ]
        self._norms = None
        if together and any(g.normalise for g in self.groups):
            self._norms = torch.empty(len(self.layers), *self._shape(), device=self._device)

    def see(self, layer: int, hidden: Float[Tensor, "batch chunk dim"]) -> None:
        """Taps a layer, or holds it until there are several."""
        if self._passing:
            return
        hidden = hidden.detach()
        if self._held.holds(self._step.mask.numel()):
            if self._held.add(layer, hidden):
                for group_id, layers, values in self._held_values():
                    self._fold(group_id, layers, values)
            return
        busy = [
            (i, one, place[layer])
            for i, (one, place) in enumerate(zip(self.groups, self._place, strict=True))
            if layer in place and i not in self._idle
        ]
        if not busy:
            return
        scale: Tensor | None = None  # as long as no probe asks for it
        states = hidden if self._chosen is None else self._chosen.take(hidden)
        states = states.to(self.groups[0].dtype)  # once, for products and norms of all groups
        if self._norms is not None:
            torch.linalg.vector_norm(states, dim=-1, out=self._norms[self._row[layer]])
        for i, one, index in busy:
            if (room := self._values[i]) is not None:
                one.products(index, states, room[index])
                continue
            if one.normalise and scale is None:
                scale = inverse_rms(states)
            self._fold(i, (layer,), one.layer_values(index, states, scale=scale))

    def end(self, cache: object | None) -> None:
        """The pass is over: what was folded is merged with what was read before.

        Raises:
            StateError: if a hidden state was not finite, naming layer and token.
        """
        if self._passing:
            return
        for group_id, layers, values in chain(self._held_values(), self._normalised()):
            self._fold(group_id, layers, values)
        self._check()
        new = tuple(join(states) if states else None for states in self._folded)
        self._values, self._folded, self._norms = [], [], None
        self._read_state = self._goes_on(new)
        self._before, self._step = None, _NO_STEP  # a step would keep its KV cache alive
        self._cache = None
        if cache is not None:
            self._read_states[cache], self._cache = self._read_state, weakref.ref(cache)

    def move(self, cache: object, rows: Int[Tensor, " row"]) -> None:
        """The rows of a KV cache were reordered or repeated (beam search does that)."""
        read_state = self._read_states.get(cache)
        if read_state is None or (self._own is not None and cache is not self._own()):
            return
        self._cache = weakref.ref(cache)
        self._read_states[cache] = self._read_state = read_state.picked(rows.to(self._device))

    # -- what the user calls

    def expect(self, rows: Sequence[Tokens], answering: bool = False) -> None:
        """Gives the turns of the next pass from the start; its batch must be these rows.

        Args:
            rows: of the batch, in its order, on whatever side it is padded.
            answering: an answer follows; probes of answers then leave the prompt alone.
        """
        self._told = (rows, answering) if self._scopes else None

    def encode(self, texts: Sequence[TextLike]) -> dict[str, Tensor]:
        """A batch for the model, padded on the left, whose turns are known to this reading.

        Args:
            texts: conversations, or texts that are the user's only turn; one or more.

        Returns:
            `input_ids` and `attention_mask`, for the model's `generate` or a forward pass.

        Raises:
            ConfigError: the reading was made without a tokenizer.
        """
        if self._encode is None:
            raise ConfigError(
                "Nothing is known of the model's tokenizer; give it: attach(model, probes, "
                "tokenizer)."
            )
        rows = [self._encode(text) for text in texts]
        self.expect(rows, answering=True)
        ids, mask = pad_batch(rows)
        return {
            "input_ids": ids.to(self._device),
            "attention_mask": mask.long().to(self._device),
        }

    def cut(self) -> None:
        """Verdicts from here on are of what follows only: the response apart from the prompt."""
        if self._read_state is None:
            return
        self._read_state = replace(
            self._read_state, states=tuple(None for _ in self.groups), counts={}
        )
        cache = self._cache() if self._cache else None
        if cache is not None:
            self._read_states[cache] = self._read_state

    def stay(self) -> None:
        """From here on only passes through the last pass's KV cache are read, others ignored."""
        self._own = self._cache

    def probabilities(self) -> dict[str, Float[Tensor, "batch output"]]:
        """Probabilities a probe of what was read since the last cut; without those of nothing.

        A row in which a probe has read no token of its scope has its probabilities of no tokens;
        `verdicts` leaves them out.

        Raises:
            StateError: no pass of the model was seen.
        """
        return self._read_out(self._seen().states)

    def logits_at(self, depths: Sequence[int]) -> dict[str, Float[Tensor, "batch depth output"]]:
        """Logits a probe of the first layers alone, up to each depth, of what was read.

        Args:
            depths: layers that each probe has learnt to be read out at, or its last.

        Raises:
            StateError: no pass of the model was seen.
        """
        found: dict[str, Float[Tensor, "batch depth output"]] = {}
        for one, state in zip(self.groups, self._seen().states, strict=True):
            if state is None:
                continue
            counts = [one.artefacts[0].card.num_layers_to(depth) for depth in depths]
            each = [one.logits(first_layers(state, count)) for count in counts]
            for artefact, logits in zip(one.artefacts, zip(*each, strict=True), strict=True):
                found[artefact.name] = torch.stack(logits, dim=1)
        return found

    def verdicts(self) -> list[dict[str, Verdict]]:
        """One mapping a batch row: probe name -> verdict of what was read since the last cut.

        Without a probe that has read no token of its scope.

        Raises:
            StateError: no pass of the model was seen.
        """
        read_state = self._seen()
        return self._verdicts(read_state.states, read_state.counts)

    def prompt_verdicts(self) -> list[dict[str, Verdict]]:
        """Verdicts of the prompt: the first pass over the current batch, and those known to go on.

        They are known where `generate` cuts the prompt into chunks, and for rows of `encode`.
        A first pass that is followed by one of a single token is taken for the whole prompt.

        Raises:
            StateError: no pass was seen, or several in which the prompt cannot be told.
        """
        prompt = self._seen().prompt
        if prompt is None:
            raise StateError(
                "The prompt ran in several passes, or again with each token (use_cache=False), so "
                "where it ends is not known; ask for its verdicts after the first pass, or let it "
                "run whole and with a KV cache, or in chunks of generate(prefill_chunk_size=...)."
            )
        return self._verdicts(*prompt)

    @property
    def held_bytes(self) -> int:
        """Memory held now for the sequences being followed, in bytes."""
        read_state = self._read_state
        prompt = read_state.prompt[0] if read_state and read_state.prompt else ()
        kept = [*read_state.states, *prompt] if read_state else []
        tensors = {id(t): t for state in filter(None, kept) for t in state.values()}
        tensors |= {id(t): t for t in self._values if t is not None}
        tensors |= {id(t): t for g in self._folded for s in g for t in s.values()}
        tensors |= {id(t): t for *_, t in self._sums}
        tensors |= {id(t): t for t in (self._norms,) if t is not None}
        return self._held.num_bytes + sum(t.nbytes for t in tensors.values())

    # -- inside

    def _seen(self) -> ReadState:
        """What was read last.

        Raises:
            StateError: nothing was.
        """
        if self._read_state is None:
            raise StateError(
                "The probes have seen no pass of the model; run the model that they are attached "
                "to, inside the context, in the thread (and task) that entered it."
            )
        return self._read_state

    @staticmethod
    def _same_place(step: Step) -> Step:
        ids = step.ids
        if ids is None or ids.device == step.mask.device:
            return step
        return replace(step, ids=ids.to(step.mask.device))

    def _listen(self, step: Step) -> None:
        """Which tokens of the pass each scope reads, and which groups have none of them.

        Raises:
            StateError: the turns of these rows are unknown, or were given for other rows.
        """
        mask = step.mask if self._packed is None else self._packed.mask
        self._masks, self._counts, self._idle = {"all": mask}, {}, frozenset()
        self._scope_masks = self._before.scope_masks if self._before else None
        if not self._scopes:
            return
        before = self._scope_masks
        if before is None:
            before = self._begin(step, mask)
        elif before.begun and mask.shape[1] > 1:
            self._check_turns(step, before.done + mask.sum(1))
        ids = step.ids if self._packed is None else None
        found, self._scope_masks = before.masks(mask.to(self._device), ids)
        self._masks |= found
        self._counts = {scope: one.sum(1) for scope, one in found.items()}
        self._check_reasoning(ids)
        heard = before.heard(self._scope_masks)
        self._idle = frozenset(i for i, g in enumerate(self.groups) if g.scope not in heard)

    def _check_turns(self, step: Step, done: Int[Tensor, " row"]) -> None:
        """Raises where a new turn runs behind an answer, as if it were more of that.

        Args:
            step: several tokens of a row, with an answer before them.
            done: tokens of each row behind it.
        """
        told = [] if self._told is None else [len(row) for row in self._told[0]]
        if step.new_prompt or told == done.tolist():
            raise StateError(
                "A new turn runs behind the KV cache of the turns before, whose words probes have "
                "read by the scopes of then; run the whole conversation, with a new cache."
            )

    def _check_reasoning(self, ids: Int[Tensor, "batch chunk"] | None) -> None:
        """Raises where the words of an answer cannot be told from its reasoning."""
        after = self._scope_masks
        if ids is not None or self._reasoning is None or after is None:
            return
        heard = not set(ANSWER_SCOPES).isdisjoint(self._scopes)
        if heard and bool((after.done > after.lengths).any()):
            raise StateError(
                "Embeddings ran in the place of an answer's tokens, which alone tell its words "
                "from its reasoning; run the tokens (input_ids), or read the scope 'all'."
            )

    def _choose(self) -> None:
        """Which tokens are tapped: where layers are tapped one by one, only those that are read.

        Taking some tokens out of a layer costs less than tapping all of them.
        """
        self._chosen = None
        scopes: set[Scope] = {g.scope for i, g in enumerate(self.groups) if i not in self._idle}
        num_tokens = self._step.mask.numel()
        if not scopes or "all" in scopes or self._held.holds(num_tokens):
            return
        read = torch.stack([self._masks[scope] for scope in scopes]).any(0)
        if 0 < int(read.sum()) <= MOST_CHOSEN * num_tokens:
            self._chosen = TappedTokens.chosen(read, self._packed)
            self._masks = {s: self._chosen.among(self._masks[s], self._packed) for s in scopes}

    def _shape(self) -> tuple[int, ...]:
        """Of what is tapped of a layer: sequences, tokens."""
        places = self._chosen
        return tuple(self._step.mask.shape) if places is None else (1, len(places.rows))

    def _begin(self, step: Step, mask: Bool[Tensor, "row token"]) -> ScopeMasks:
        """What was said of the rows that begin to run."""
        if self._told is None:
            names = ", ".join(a.name for g in self.groups if g.scope != "all" for a in g.artefacts)
            raise StateError(
                f"Probe {names} reads some turns of a conversation, and nothing says whose words "
                "these tokens are; make the batch with the reading's encode(conversations)."
            )
        (rows, answering), self._told = self._told, None
        if len(rows) != len(mask):
            raise StateError(
                f"The batch has {len(mask)} rows, and {len(rows)} conversations were encoded for "
                "it; run the batch that encode gave, as it is."
            )
        self._compare(step, mask, rows)
        return ScopeMasks.of(rows, self._scopes, self._device, self._reasoning, answering)

    @staticmethod
    def _compare(step: Step, mask: Bool[Tensor, "row token"], rows: Sequence[Tokens]) -> None:
        """Raises if a row that runs is not the one that was encoded; of embeddings, if longer."""
        counts = mask.sum(1).tolist()
        seen = None if step.ids is None else step.ids[step.mask].cpu().split(counts)
        for place, (row, count) in enumerate(zip(rows, counts, strict=True)):
            got = row[:count] if seen is None else tuple(seen[place].tolist())
            if count > len(row) or got != row[:count]:
                raise StateError(
                    f"Row {place} of the batch holds other tokens than were encoded for it; run "
                    "the batch that encode gave, as it is."
                )

    def _goes_on(self, new: States) -> ReadState:
        """The read_state with what a pass has read."""
        old, step = self._before, self._step
        if old is None:
            rows = len(step.mask if self._packed is None else self._packed.mask)
            read = None if self._begun_again(step) else (new, self._counts)
            return ReadState(step.mask.shape[1], rows, new, self._counts, read, self._scope_masks)
        states = tuple(
            one if two is None else two if one is None else g.fold.merge(one, two)
            for g, one, two in zip(self.groups, old.states, new, strict=True)
        )
        counts: Counts = {s: n + old.counts.get(s, 0) for s, n in self._counts.items()}
        return replace(
            old,
            prompt=self._prompt(old, (states, counts)),
            num_tokens=old.num_tokens + step.mask.shape[1],
            states=states,
            counts=counts,
            scope_masks=self._scope_masks,
        )

    def _prompt(self, old: ReadState, now: tuple[States, Counts]) -> tuple[States, Counts] | None:
        """What was read of the prompt, now that a pass has gone on; None where that is not known.

        Args:
            old: before the pass.
            now: behind it.
        """
        if self._step.new_prompt and old.scope_masks is None:
            return now  # what was there before is the beginning of this one
        if old.prompt is None or old.states is not old.prompt[0]:
            return old.prompt
        if self._step.more_prompt:
            return now
        before, after = old.scope_masks, self._scope_masks
        if before is not None and after is not None and not before.begun:
            return now if bool((after.done <= after.lengths).all()) else None
        # Several tokens may be the rest of a prompt.
        return None if self._step.mask.shape[1] > 1 else old.prompt

    def _begun_again(self, step: Step) -> bool:
        """Whether a pass is the one before it and a token more, as without a KV cache."""
        last, self._last = self._last, step if step.cache is None else None
        if last is None or last.mask.shape != (len(step.mask), step.mask.shape[1] - 1):
            return False
        if last.ids is None or step.ids is None:
            return last.ids is step.ids
        return torch.equal(last.ids, step.ids[:, :-1])

    def _held_values(self) -> Iterator[Tapped]:
        """Taps all layers that are held at once."""
        if not self._held:
            return
        layers, every = self._held.take()
        for i, one in enumerate(self.groups):
            if i in self._idle:
                continue
            if (found := one.own_values(layers, every)) is not None:
                yield i, *found

    def _normalised(self) -> Iterator[Tapped]:
        """Normalises what was tapped layer by layer: the fewest operations a layer."""
        scale: Tensor | None = None  # as above
        for i, (one, values) in enumerate(zip(self.groups, self._values, strict=True)):
            if values is None:
                continue
            if one.normalise:
                if scale is None:
                    assert self._norms is not None
                    scale = inverse_rms_of(self._norms, one.own.shape[1])
                rows = [self._row[layer] for layer in one.layers]
                values *= (scale if len(rows) == len(scale) else scale[rows])[..., None]
            yield i, one.layers, values

    def _fold(
        self, group_id: int, layers: tuple[int, ...], values: Float[Tensor, "layer batch chunk tap"]
    ) -> None:
        """Folds the values of some of a group's layers."""
        self._sums.append((layers, self._chosen or self._packed, values.sum(-1)))
        if values.device.type == "cpu":
            self._check()
        one, places = self.groups[group_id], self._chosen or self._packed
        if places is not None:
            values = places.spread(values)
        self._folded[group_id].append(one.fold.summarise(values, self._masks[one.scope]))

    def _check(self) -> None:
        """A state that is not finite makes the sum of its token's values so.

        An accelerator is asked once a pass, as the host then waits for all its work.
        """
        folded, self._sums = self._sums, []
        if not folded or bool(torch.cat([sums.flatten() for *_, sums in folded]).sum().isfinite()):
            return
        for layers, where, sums in folded:
            wrong = ~sums.isfinite()
            if where is None or where.index is None:
                wrong &= self._step.mask
            for index, row, token in wrong.nonzero().tolist()[:1]:
                if where is not None:
                    row, token = int(where.rows[token]), int(where.columns[token])
                raise StateError(
                    f"Hidden states of layer {layers[index]} are not finite at token "
                    f"{self._step.past_tokens + token} of row {row}: the model gave NaN or "
                    "infinity. Run the model in another dtype, such as float32."
                )

    def _read_out(self, states: States) -> dict[str, Float[Tensor, "batch output"]]:
        named: dict[str, Float[Tensor, "batch output"]] = {}
        for one, state in zip(self.groups, states, strict=True):
            if state is None:
                continue
            for artefact, logits in zip(one.artefacts, one.logits(state), strict=True):
                named[artefact.name] = artefact.probabilities(logits)
        return {name: named[name] for name in self.artefacts if name in named}

    def _verdicts(self, states: States, counts: Counts) -> list[dict[str, Verdict]]:
        rows = {name: p.tolist() for name, p in self._read_out(states).items()}
        read = {scope: count.tolist() for scope, count in counts.items()}
        scopes = {name: self.artefacts[name].card.scope for name in rows}
        num_rows = self._read_state.num_rows if self._read_state and any(states) else 0
        return [
            {
                name: self.artefacts[name].verdict(p[i])
                for name, p in rows.items()
                if scopes[name] not in read or read[scopes[name]][i]
            }
            for i in range(num_rows)
        ]
