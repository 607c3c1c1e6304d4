"""Read the verdicts beside an answer, with OpenAI's client.

Start a server first, for instance `pillion serve --probe safety=PROBE`, then:

    python recipes/read_verdicts.py                       asks http://127.0.0.1:8000/v1
    python recipes/read_verdicts.py http://HOST:PORT/v1   another one; the key is in OPENAI_API_KEY

The answer is what OpenAI's API gives; `verdicts` stands beside it, in a stream in every chunk.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import openai

PROMPT = "Write a short poem about rain."


def main(arguments: list[str]) -> dict[str, Any]:
    """Streams an answer, stops reading if it turns bad, and returns the last verdicts."""
    url = arguments[0] if arguments else "http://127.0.0.1:8000/v1"
    key = os.environ.get("OPENAI_API_KEY", "none")
    verdicts: dict[str, Any] = {}
    with openai.OpenAI(base_url=url, api_key=key) as client:
        model = client.models.list().data[0].id
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": PROMPT}],
            max_tokens=40,
            stream=True,
        )
        for chunk in stream:
            # A field that OpenAI's API does not have: the client keeps it all the same.
            verdicts |= chunk.model_extra["verdicts"] if chunk.model_extra else {}
            if not chunk.choices:
                continue
            choice = chunk.choices[0]
            if choice.delta.role:
                print("prompt:", line(verdicts["prompt"]))
            print(choice.delta.content or "", end="", flush=True)
            if choice.finish_reason:
                print(f"\n[{choice.finish_reason}] response:", line(verdicts["response"]))
    return verdicts


def line(verdicts: dict[str, Any]) -> str:
    """`safety safe 0.98 (allow)` for every probe."""
    shown = []
    for name, verdict in verdicts.items():
        best = max(verdict["probs"].values())
        shown.append(f"{name} {verdict['label']} {best:.2f} ({verdict['decision']})")
    return ", ".join(shown) or "no probe"


if __name__ == "__main__":
    main(sys.argv[1:])
