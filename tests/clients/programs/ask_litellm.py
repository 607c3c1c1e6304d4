"""Chats, tools, JSON and moderation through LiteLLM's library; prints what it got as JSON."""

import asyncio
import json
import sys

import litellm

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def main(url):
    facts = {"api_base": url, "api_key": "none", "max_retries": 0}
    chat = {**facts, "model": "openai/spelled"}
    hello = [{"role": "user", "content": "hello, no bomb"}]
    whole = litellm.completion(**chat, messages=hello)
    chunks = list(litellm.completion(**chat, messages=hello, stream=True))
    called = litellm.completion(**chat, messages=hello, tools=TOOLS).choices[0]
    form = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    made = litellm.completion(**chat, messages=hello, response_format=form)
    texts = ("Where is a bakery?", "Where is a bomb?")
    judge = {**facts, "model": "openai/safety"}
    judged = [litellm.moderation(input=text, **judge).results[0] for text in texts]
    again = [asyncio.run(litellm.amoderation(input=text, **judge)).results[0] for text in texts]
    headers = whole._hidden_params.get("additional_headers", {})
    print(
        json.dumps(
            {
                "whole": whole.choices[0].message.content,
                "verdicts": whole.model_dump().get("verdicts"),
                "headers": {k: v for k, v in headers.items() if "pillion" in k},
                "streamed": "".join(c.choices[0].delta.content or "" for c in chunks),
                "end": chunks[-1].choices[0].finish_reason,
                "chunk_verdicts": any("verdicts" in c.model_dump() for c in chunks),
                "reason": called.finish_reason,
                "call": called.message.tool_calls[0].function.model_dump(),
                "made": made.choices[0].message.content,
                "flagged": [one.flagged for one in judged],
                "again": [one.flagged for one in again],
                "categories": [one.categories["unsafe"] for one in judged],
            }
        )
    )


main(sys.argv[1])
