"""A judge on many texts: what is known is not asked, what is said is kept at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pillion.core import Text
from pillion.data.examples import plain_turns
from pillion.errors import Interrupted
from pillion.labelling.base import Judge, JudgeAnswer, digest
from pillion.labelling.journal import Journal


def label_texts(
    judge: Judge,
    texts: Sequence[Text | None],
    journal: Journal,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[JudgeAnswer | None]:
    """An answer a text, in order; equal texts are asked about once.

    Args:
        judge: the judge.
        texts: None for one that failed before.
        journal: of this judge; says what is known, and keeps what is said.
        progress: told of the texts that are answered, and of all that are asked about.

    Raises:
        Interrupted: by Ctrl-C; what was said is kept.
        RunError: the judge cannot be reached; its earlier answers are kept.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if text is not None:
            places.setdefault(digest(plain_turns(text)), []).append(place)
    found: list[JudgeAnswer | None] = [None] * len(texts)
    open_still: list[list[int]] = []
    for same in places.values():
        text = texts[same[0]]
        assert text is not None
        probs = journal.get(text)
        if probs is None:
            open_still.append(same)
            continue
        for place in same:
            found[place] = JudgeAnswer(place, probs)
    asked = [one for same in open_still if (one := texts[same[0]]) is not None]
    try:
        for done, answer in enumerate(judge.ask(asked), 1):
            if answer.probs is not None:
                journal.put(asked[answer.place], answer.probs)
            for place in open_still[answer.place]:
                found[place] = JudgeAnswer(place, answer.probs, answer.reason)
            progress(done, len(asked))
    except KeyboardInterrupt as error:
        kept = "run the same command again to finish" if journal.path else "nothing is kept"
        raise Interrupted(f"Labelling was interrupted; {kept}.") from error
    return found
