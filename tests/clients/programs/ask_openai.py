"""Chats, tools, Responses and moderation with OpenAI's client for Python; prints JSON."""

import json
import sys
from typing import Literal

from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int


class Weather(BaseModel):
    city: str


def main(url):
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    asked = {"model": "spelled", "messages": [{"role": "user", "content": "hello, no bomb"}]}
    raw = client.chat.completions.with_raw_response.create(**asked)
    whole = raw.parse()
    parsed = client.chat.completions.parse(**asked, response_format=Trip)
    tools = [pydantic_function_tool(Weather, name="weather")]
    with client.chat.completions.stream(**asked, tools=tools) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_completion().choices[0]
    (call,) = streamed.message.tool_calls
    response = client.responses.create(model="spelled", input="hello, no bomb")
    made = client.responses.parse(model="spelled", input="Where to?", text_format=Trip)
    with client.responses.stream(model="spelled", input="hello") as events:
        last = [event.type for event in events][-1]
    judged = client.moderations.create(model="safety", input=["a bakery", "a bomb"])
    print(
        json.dumps(
            {
                "whole": whole.choices[0].message.content,
                "verdicts": whole.verdicts,
                "header": raw.headers["x-pillion-verdict-safety"],
                "parsed": parsed.choices[0].message.parsed.model_dump(),
                "streamed": [streamed.finish_reason, type(call.function.parsed_arguments).__name__],
                "city": call.function.parsed_arguments.city,
                "kinds": sorted(set(kinds)),
                "response": [response.output_text, response.verdicts],
                "made": made.output_parsed.model_dump(),
                "last": last,
                "flagged": [one.flagged for one in judged.results],
            }
        )
    )


main(sys.argv[1])
