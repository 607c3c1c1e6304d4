"""Texts and conversations to token ids and back, by a tokenizer of transformers.

Promises that what is written in a turn stays text: a control token spelled there (`<|im_end|>`)
becomes the tokens of its letters, so that no text can end a turn or speak as another role.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from pillion.backends.base import Tool
from pillion.backends.template import REASONING, Rendered, RenderedSpan, refused, render, strings
from pillion.backends.tokenizer_lock import taken
from pillion.core import Conversation, Segment, Template, Tokens, Turn, in_reasoning
from pillion.errors import ConfigError, DataError

Places = list[tuple[int, int]]
"""Of each token, the characters that it stands for: first, and one after the last."""

_TRIES = 8
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_DAY: ContextVar[datetime | None] = ContextVar("day", default=None)


@contextmanager
def on_day(day: datetime) -> Generator[None]:
    """Inside, chat templates that write today's date write this one."""
    before = _DAY.set(day)
    try:
        yield
    finally:
        _DAY.reset(before)


class Codec:
    """A tokenizer as engines use it, from any thread.

    Args:
        tokenizer: of transformers.
        name: of the model, for messages.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer, self.name = tokenizer, name

    def encode(self, text: str, template: Template) -> Tokens:
        """Token ids of a text, wrapped as the template says; `raw` is taken as it is.

        Raises:
            ConfigError: `chat` for a tokenizer that has no chat template.
        """
        if template == "raw":
            with taken(self.tokenizer, len(text)) as tokenizer:
                return Tokens(tokenizer(text)["input_ids"])
        return self.encode_chat((Turn("user", text),))

    def encode_chat(self, turns: Conversation, tools: Sequence[Tool] = ()) -> Tokens:
        """Token ids of a conversation, up to where the answer begins, or as far as it goes.

        A last turn of the assistant stands as if it had been generated: behind the opening that
        the template gives to every answer, without an end.

        Law: the segments are those of the same contents found in the text a second way.

        Args:
            turns: the conversation.
            tools: what the model may call; they belong to no turn.

        Raises:
            ConfigError: no chat template, or one that refuses these turns.
            DataError: contents that the template rewrites, or a tool that spells a control token.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"Model {self.name!r} has no chat template; give plain texts (template raw)."
            )
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        if not asked:
            raise DataError(
                "the conversation begins with the answer; give the turn that it answers too."
            )
        self._check_tools(tools)
        rendered = render(asked, partial(self._render, tools=tools))
        ids, places = self._tokens(rendered)
        segments = _segments(rendered.spans, places)
        if len(asked) < len(turns):
            return self._answered(ids, segments, turns[-1], len(asked))
        return Tokens(ids, segments)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        with taken(self.tokenizer, len(token_ids)) as tokenizer:
            return tokenizer.decode(list(token_ids), skip_special_tokens=True)

    def spelled(self, text: str) -> str | None:
        """A control token that a text without turns spells; None for none."""
        ids, places = self._pieces(text, [0, len(text)])
        forged = self._inside([RenderedSpan(0, len(text), "user", 0)], places, ids)
        return next((text[begin:end] for begin, end in forged), None)

    @property
    def chat_template(self) -> str:
        """The chat template's own text, of several the one for tools; empty where there is none."""
        found = self.tokenizer.chat_template or ""
        if isinstance(found, dict):
            found = found.get("tool_use", found.get("default", ""))
        return str(found)

    def hidden_id(self, mark: str) -> int | None:
        """The token that is this mark, if `decode` leaves it out; None for none."""
        number = self.tokenizer.get_added_vocab().get(mark)
        return None if number is None or self.decode([number]) else number

    @cached_property
    def reasoning_ids(self) -> tuple[int, int] | None:
        """The tokens around reasoning in a generated answer; None where they are no tokens."""
        known = self.tokenizer.get_added_vocab()
        first, last = (known.get(mark) for mark in REASONING)
        return None if first is None or last is None else (first, last)

    # -- inside

    def _check_tools(self, tools: Sequence[Tool]) -> None:
        """Returns if no tool spells a control token: no turn is theirs to keep it text in."""
        if tools and (token := self.spelled("\n".join(strings(tools)))) is not None:
            raise DataError(
                f"a tool spells the control token {token!r}, which would be taken for one; write "
                "it in another way, or take it out."
            )

    def _render(self, messages: list[dict[str, Any]], tools: Sequence[Tool] = ()) -> str:
        from jinja2 import TemplateError

        given: Any = list(tools) or None
        template = self.tokenizer.get_chat_template(tools=given)
        if day := _DAY.get():
            template = _TODAY.sub(lambda found: repr(day.strftime(found[2])), template)
        try:
            return self.tokenizer.apply_chat_template(
                messages,
                tools=given,
                chat_template=template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except TemplateError as error:  # a template may refuse roles, or their order
            raise refused(self.name, error) from error

    def _answered(
        self, ids: list[int], segments: list[Segment], answer: Turn, place: int
    ) -> Tokens:
        """A prompt and the answer behind it, whose reasoning is a segment of its own."""
        text, spans = answer.content, (RenderedSpan(0, len(answer.content), "assistant", place),)
        if self.reasoning_ids is not None:
            spans = _around_marks(text, in_reasoning(ids, self.reasoning_ids), place)
        own, places = self._tokens(Rendered(text, spans))
        moved = [
            Segment(s.begin + len(ids), s.end + len(ids), s.role, s.turn, s.kind)
            for s in _segments(spans, places)
        ]
        return Tokens([*ids, *own], [*segments, *moved])

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        """Tokens that mean more than their letters: special ones, and those that templates use."""
        template = str(self.tokenizer.chat_template or "")  # of several, all
        special = set(self.tokenizer.all_special_ids)
        return frozenset(
            number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.content.strip()
            and (token.special or number in special or token.content in template)
        )

    def _tokens(self, rendered: Rendered) -> tuple[list[int], Places]:
        """Ids and places of a text; control tokens count only outside of its spans.

        A token that would mean more than its letters is cut apart behind its first one, until
        none is left.

        Raises:
            DataError: one that cannot be cut apart.
        """
        text, cuts = rendered.text, set[int]()
        for _ in range(_TRIES):
            ids, places = self._pieces(text, sorted({0, *cuts, len(text)}))
            forged = self._inside(rendered.spans, places, ids)
            if not forged:
                return ids, places
            if any(end - begin < 2 for begin, end in forged):
                break
            cuts |= {begin + 1 for begin, _ in forged}
        raise DataError(
            f"the text spells control tokens of {self.name!r} that cannot be read as text; take "
            "them out."
        )

    def _inside(
        self, spans: Sequence[RenderedSpan], places: Places, ids: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Places of control tokens in what a turn says, without the space that some take along."""
        control = self._control_ids
        begins, ends = [s.begin for s in spans], [s.end for s in spans]
        found: list[tuple[int, int]] = []
        for number, (begin, end) in zip(ids, places, strict=True):
            if number in control and begin < end:
                near = bisect_right(ends, begin)
                if near < len(begins) and begins[near] < end:
                    found.append((begin, end))
        return found

    def _pieces(self, text: str, cuts: Sequence[int]) -> tuple[list[int], Places]:
        """Ids and places of a text that is cut at some characters."""
        ids: list[int] = []
        places: Places = []
        with taken(self.tokenizer, len(text)) as tokenizer:
            for begin, end in pairwise(cuts):
                found = self._encoded(tokenizer, text[begin:end])
                ids += found[0]
                places += [(first + begin, last + begin) for first, last in found[1]]
        return ids, places

    def _encoded(self, tokenizer: Any, text: str) -> tuple[list[int], Places]:
        try:
            found = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
        except NotImplementedError as error:
            raise ConfigError(
                f"The tokenizer of {self.name!r} does not say which letters a token stands for; "
                "load a fast one (of the tokenizers library), or give plain texts (template raw)."
            ) from error
        return list(found["input_ids"]), list(found["offset_mapping"])


def _around_marks(text: str, inside: bool, place: int) -> tuple[RenderedSpan, ...]:
    """What stands between the marks of reasoning in an answer, as its tokens would be told apart.

    Args:
        text: the answer; without a mark it has no reasoning, whatever the template has opened.
        inside: whether the template has opened reasoning before it.
        place: of its turn.
    """
    marks = [*re.finditer("|".join(map(re.escape, REASONING)), text)]
    spans: list[RenderedSpan] = []
    begin, inside = 0, inside and bool(marks)
    for mark in marks:
        spans.append(_span(begin, mark.start(), inside, place))
        begin, inside = mark.end(), mark.group() == REASONING[0]
    spans.append(_span(begin, len(text), inside, place))
    return tuple(span for span in spans if span.begin < span.end)


def _span(begin: int, end: int, inside: bool, place: int) -> RenderedSpan:
    return RenderedSpan(begin, end, "assistant", place, "reasoning" if inside else "content")


def _segments(spans: Sequence[RenderedSpan], places: Places) -> list[Segment]:
    """The tokens that stand for some of a span's characters; none stands in two segments."""
    begins, ends = [begin for begin, _ in places], [end for _, end in places]
    segments: list[Segment] = []
    before = 0
    for span in spans:
        first = max(before, bisect_right(ends, span.begin))
        last = max(first, bisect_left(begins, span.end))
        segments.append(Segment(first, last, span.role, span.turn, span.kind))
        before = last
    return segments
