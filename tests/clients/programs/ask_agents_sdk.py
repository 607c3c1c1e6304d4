"""Agents of OpenAI's SDK: tools over several turns and output types; prints what it got as JSON."""

import asyncio
import json
import sys
from typing import Literal

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import BaseModel

asked = []


@function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return f"Rain in {city}."


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int


async def tried(model):
    helper = Agent(name="helper", model=model, instructions="Help.", tools=[weather])
    whole = await Runner.run(helper, "Will it rain? No bomb.")
    stream = Runner.run_streamed(helper, "Will it rain?")
    kinds = [event.type async for event in stream.stream_events()]
    planner = Agent(name="planner", model=model, output_type=Trip)
    trip = (await Runner.run(planner, "Where to?")).final_output
    both = Agent(name="both", model=model, tools=[weather], output_type=Trip)
    asked_first = await Runner.run(both, "Where does it not rain?")
    return {
        "whole": whole.final_output,
        "items": [item.type for item in whole.new_items],
        "requests": whole.context_wrapper.usage.requests,
        "tokens": whole.context_wrapper.usage.output_tokens,
        "streamed": stream.final_output,
        "kinds": sorted(set(kinds)),
        "trip": [type(trip).__name__, trip.model_dump()],
        "both": [item.type for item in asked_first.new_items],
        "made": asked_first.final_output.model_dump(),
    }


async def main(url):
    set_tracing_disabled(True)
    headers = []

    async def keep(answer):
        headers.append(answer.headers.get("x-pillion-verdict-safety", ""))

    http = DefaultAsyncHttpxClient(event_hooks={"response": [keep]})
    client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http)
    kinds = {"responses": OpenAIResponsesModel, "chats": OpenAIChatCompletionsModel}
    told = {
        name: await tried(kind(model="spelled", openai_client=client))
        for name, kind in kinds.items()
    }
    print(json.dumps({**told, "headers": [one for one in headers if one], "asked": asked}))


asyncio.run(main(sys.argv[1]))
