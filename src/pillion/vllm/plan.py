"""Which rows go where after a step: arithmetic of positions, blocks and slots, on the host.

The scheduler says which tokens of which requests a step computes (`Step`); a `Tracker` follows the
requests and turns that into index lists (`Plan`) that a side cache carries out. Knows neither
tensors nor vLLM.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Span:
    """The tokens of one request that a step computes.

    Attributes:
        request: its id.
        begin: first position.
        end: position after the last.
        blocks: block ids that the request got since its last span; all of them if it starts.
        starts: whether it begins, or begins again after it was preempted; the `begin` tokens
            before the span then came from the prefix cache.
        prompt_tokens: length of the prompt; needed when a request begins.
    """

    request: str
    begin: int
    end: int
    blocks: tuple[int, ...] = ()
    starts: bool = False
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Step:
    """What a step computes, and who has left since the one before."""

    spans: tuple[Span, ...] = ()
    finished: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """One read-out after a step.

    Attributes:
        request: whose.
        num_tokens: tokens that it covers: of the prompt, or of the answer.
        is_prompt: which of both.
    """

    request: str
    num_tokens: int
    is_prompt: bool


Ints = tuple[int, ...]


@dataclass
class Plan:
    """Index lists of one step, in the order in which they are carried out.

    A *row* is a place for one token's values in the open blocks (`lane * block_tokens + offset`), a
    *slot* a token's place in the KV cache (`block * block_tokens + offset`), a *lane* what a
    request holds as long as it lives.

    Attributes:
        num_tokens: tokens of the step.
        head: (row, slot) of tokens that go on in a block begun by an earlier step.
        closed: (lane, block) of open blocks that are full now.
        fresh: (block,) of blocks that this step begins and fills.
        begun: (lane,) of requests whose answer is empty so far.
        resumed: (lane,) of requests whose answer so far is its edge.
        open_edges: (lane, offset): the open block is full; up to the offset it is prompt, from
            there on the answer's edge.
        fresh_edges: (lane, block, offset): the same of a block begun and filled at once.
        tail: (row, slot) of tokens in a block that this step begins and does not fill.
        grown: (lane,) and the full blocks that are all answer, new in this step.
        prompts: (lane, end offset in the open block) and the full blocks of complete prompts.
        answers: (lane, first offset, end offset in the open block).
        prompt_reads: what the read-outs of `prompts` are.
        answer_reads: what the read-outs of `answers` are.
    """

    num_tokens: int = 0
    head: list[Ints] = field(default_factory=list[Ints])
    closed: list[Ints] = field(default_factory=list[Ints])
    fresh: list[Ints] = field(default_factory=list[Ints])
    begun: list[Ints] = field(default_factory=list[Ints])
    resumed: list[Ints] = field(default_factory=list[Ints])
    open_edges: list[Ints] = field(default_factory=list[Ints])
    fresh_edges: list[Ints] = field(default_factory=list[Ints])
    tail: list[Ints] = field(default_factory=list[Ints])
    grown: list[tuple[Ints, list[int]]] = field(default_factory=list[tuple[Ints, list[int]]])
    prompts: list[tuple[Ints, list[int]]] = field(default_factory=list[tuple[Ints, list[int]]])
    answers: list[Ints] = field(default_factory=list[Ints])
    prompt_reads: list[Read] = field(default_factory=list[Read])
    answer_reads: list[Read] = field(default_factory=list[Read])

    @property
    def reads(self) -> list[Read]:
        """The read-outs, in the order of their rows."""
        return self.prompt_reads + self.answer_reads


@dataclass
class Track:
    """A request that is followed."""

    lane: int
    prompt_tokens: int
    blocks: list[int]
    is_prompt_read: bool = False


class Tracker:
    """Follows requests from their first token to their last; gives each a lane.

    Args:
        block_tokens: tokens of a block.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.tracks: dict[str, Track] = {}
        self.num_lanes = 0
        self._free: list[int] = []

    def plan(self, step: Step) -> Plan:
        """What is to be done after a step, and what can be read out then."""
        for request in step.finished:
            track = self.tracks.pop(request, None)
            if track is not None:
                self._free.append(track.lane)
        plan = Plan()
        for span in step.spans:
            track = self._follow(span)
            plan.num_tokens += span.end - span.begin
            self._keep(plan, track, span)
            self._answer(plan, track, span)
            self._read(plan, track, span)
        return plan

    def _follow(self, span: Span) -> Track:
        if not span.starts:
            track = self.tracks[span.request]
            track.blocks.extend(span.blocks)
            return track
        assert span.begin % self.block_tokens == 0, "the prefix cache works on whole blocks"
        known = self.tracks.get(span.request)
        if known is not None:  # preempted, and back
            known.blocks = list(span.blocks)
            return known
        track = Track(self._lane(), span.prompt_tokens, list(span.blocks))
        self.tracks[span.request] = track
        return track

    def _lane(self) -> int:
        if self._free:
            return self._free.pop()
        self.num_lanes += 1
        return self.num_lanes - 1

    def _keep(self, plan: Plan, track: Track, span: Span) -> None:
        """Rows to open blocks, full blocks to states."""
        size = self.block_tokens
        first, last = span.begin // size, span.end // size
        if span.begin % size:
            plan.head += self._rows(track, span.begin, min(span.end, (first + 1) * size))
            if last > first:
                plan.closed.append((track.lane, track.blocks[first]))
            first += 1
        plan.fresh += [(block,) for block in track.blocks[first:last]]
        if first <= last:
            plan.tail += self._rows(track, last * size, span.end)

    def _rows(self, track: Track, begin: int, end: int) -> list[Ints]:
        """Row and slot of tokens of one block."""
        if begin >= end:
            return []
        row, slot = track.lane * self.block_tokens, track.blocks[begin // self.block_tokens]
        slot *= self.block_tokens
        offsets = range(begin % self.block_tokens, begin % self.block_tokens + end - begin)
        return [(row + offset, slot + offset) for offset in offsets]

    def _answer(self, plan: Plan, track: Track, span: Span) -> None:
        """Full blocks of the answer; the one with the end of the prompt in it is its edge."""
        size = self.block_tokens
        edge, offset = divmod(track.prompt_tokens, size)
        first, last = span.begin // size, span.end // size
        if span.starts:
            is_edge_cached = bool(offset) and first > edge
            (plan.resumed if is_edge_cached else plan.begun).append((track.lane,))
        if offset and first <= edge < last:
            if edge == first and span.begin % size:
                plan.open_edges.append((track.lane, offset))
            else:
                plan.fresh_edges.append((track.lane, track.blocks[edge], offset))
        whole = edge + bool(offset)
        # One that starts again takes up what it finds in the cache; one that goes on has it.
        if blocks := track.blocks[whole if span.starts else max(whole, first) : last]:
            plan.grown.append(((track.lane,), blocks))

    def _read(self, plan: Plan, track: Track, span: Span) -> None:
        size, cut = self.block_tokens, track.prompt_tokens
        edge, offset = divmod(cut, size)
        if span.end >= cut and not track.is_prompt_read:
            assert span.end == cut, "an answer began before its prompt was read"
            track.is_prompt_read = True
            plan.prompts.append(((track.lane, offset), track.blocks[:edge]))
            plan.prompt_reads.append(Read(span.request, cut, is_prompt=True))
        if span.end > cut:
            last, end = divmod(span.end, size)
            plan.answers.append((track.lane, offset if last == edge else 0, end))
            plan.answer_reads.append(Read(span.request, span.end - cut, is_prompt=False))
