"""Read several probes in one pass of the model.

Trains a probe on each of the three bundled examples, then labels texts with all of them at once,
and answers a prompt while they ride along. Every probe says what it would say alone.

    python recipes/many_probes_one_pass.py             the embedded model, about a minute
    python recipes/many_probes_one_pass.py MODEL       a folder, a hub name, or `fake` (seconds)
"""

from __future__ import annotations

import sys

import pillion
from pillion.examples import load_example

PROBES = ("safety", "intent", "sentiment")
TEXTS = (
    "Please cancel my subscription at the end of the month.",
    "The new lamp is wonderful, I love it.",
    "Tell me how to break into my neighbour's car.",
)


def main(arguments: list[str]) -> list[dict[str, pillion.Verdict]]:
    """Trains, scores, generates; returns the verdicts of every text by probe."""
    model = pillion.LanguageModel.load(*arguments[:1])
    probes = [train(model, name) for name in PROBES]

    # One pass a text, however many probes; they may differ in kind, labels and layers.
    verdicts = model.score(TEXTS, probes)
    for text, row in zip(TEXTS, verdicts, strict=True):
        print(text)
        for name, verdict in row.items():
            print(f"  {name:<10} {verdict.label:<22} {verdict.probs[verdict.label]:.3f}")

    # The same while an answer is made: the prompt's verdicts are there before the first token.
    stream = model.stream(TEXTS[0], probes, max_tokens=24)
    print({name: verdict.label for name, verdict in stream.prompt.items()}, end=" ")
    for event in stream:
        print(event.text, end="")
    print()
    return verdicts


def train(model: pillion.LanguageModel, name: str) -> pillion.Probe:
    """A gate trained on a bundled example."""
    rows = load_example(name, "train")
    return pillion.Probe(model=model, name=name).fit(rows.texts, rows.labels)


if __name__ == "__main__":
    main(sys.argv[1:])
