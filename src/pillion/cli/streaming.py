"""An answer on the terminal: verdicts before it, a running score under each of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len

from pillion.cli.app import out
from pillion.core import TokenEvent, Verdict
from pillion.probe import Artefact
from pillion.runtime import Generation, Stream

LINE_WIDTH = 92
NAME_WIDTH = 10
"""Of probes' names at least; a longer name moves all lines alike."""

STEPS = " ▁▂▃▄▅▆▇█"


def show_answer(stream: Stream, artefacts: Sequence[Artefact]) -> Generation:
    """Prints a stream as it comes and returns the whole.

    Under every line of the answer stands a row a probe: one bar a token, the running probability
    of the label that the probe decides in the end of that line. A token that no probe has read has
    no bar: the last one of an answer that ends at its limit.
    """
    wide = max([NAME_WIDTH, *(cell_len(artefact.name) for artefact in artefacts)])
    said = {name: _bars(verdict) for name, verdict in stream.prompt.items()}
    said |= {name: f"no verdict: {why}" for name, why in stream.absences.items()}
    for artefact in artefacts:
        if artefact.name in said:
            out.print(f"  {artefact.name:<{wide}} {said[artefact.name]}")
    line: list[tuple[str, Mapping[str, Verdict]]] = []
    held: TokenEvent | None = None
    for event in stream:
        # A token's own score is known one step later, with the event after it.
        if held is not None:
            line.append((_plain(held.text), event.verdicts))
        held = event
        if sum(cell_len(text) for text, _ in line) >= LINE_WIDTH:
            _print_line(line, artefacts, wide)
            line = []
    assert stream.result is not None
    if held is not None:
        done = stream.result
        line.append((_plain(held.text), done.response if done.finish_reason == "stop" else {}))
    _print_line(line, artefacts, wide)
    return stream.result


def _plain(text: str) -> str:
    """One line of text without the control codes that a terminal would obey."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)


def _bars(verdict: Verdict) -> str:
    """`label 0.93   other 0.05 ...`, the likeliest first."""
    ranked = sorted(verdict.probs.items(), key=lambda item: -item[1])[:3]
    rest = "  ".join(f"{label} {prob:.2f}" for label, prob in ranked)
    return f"{verdict.label:<22} {rest}"


def _print_line(
    line: Sequence[tuple[str, Mapping[str, Verdict]]], artefacts: Sequence[Artefact], wide: int
) -> None:
    if not line:
        return
    out.print("  " + " " * (wide + 1) + "".join(text for text, _ in line))
    for artefact in artefacts:
        known = [v[artefact.name] for _, v in line if artefact.name in v]
        if not known:
            continue
        watched = _watched(known[-1], artefact)
        row = "".join(_cell(text, v.get(artefact.name), watched) for text, v in line)
        last = known[-1].probs[watched]
        out.print(f"  {artefact.name:<{wide}} {row}  {watched} {last:.2f}", style="dim")


def _watched(verdict: Verdict, artefact: Artefact) -> str:
    """The label whose score is drawn: the positive one, or the likeliest so far."""
    if artefact.card.task == "binary":
        return artefact.card.labels[1]
    return max(verdict.probs, key=verdict.probs.__getitem__)


def _cell(text: str, verdict: Verdict | None, label: str) -> str:
    """Bars as wide as the token."""
    step = " " if verdict is None else STEPS[min(8, int(verdict.probs[label] * 9))]
    return step * cell_len(text)
