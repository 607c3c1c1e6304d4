"""Chats, tools and structured output with LangChain; prints what it got as JSON."""

import json
import sys
from typing import Literal

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Trip(BaseModel):
    """A journey."""

    city: Literal["Paris", "Rome"]
    days: int
    by_train: bool


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}."


def told(message):
    calls = [{"name": one["name"], "args": one["args"]} for one in message.tool_calls]
    facts = message.response_metadata
    return {
        "text": message.text,
        "calls": calls,
        "usage": message.usage_metadata,
        "reason": facts.get("finish_reason") or facts.get("status"),
        "headers": {k: v for k, v in facts.get("headers", {}).items() if "pillion" in k},
    }


def asked(model):
    question = HumanMessage("Will it rain? No bomb.")
    called = model.bind_tools([weather]).invoke([question])
    (call,) = called.tool_calls
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    answer = model.bind_tools([weather]).invoke([question, called, result])
    streamed = None
    for chunk in model.bind_tools([weather]).stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    words = [chunk.text for chunk in model.stream("hello")]
    agent = create_agent(model, [weather])
    turns = agent.invoke({"messages": [question]})["messages"]
    formed = create_agent(model, [weather], response_format=ProviderStrategy(Trip))
    both = formed.invoke({"messages": [question]})
    made = {
        method: model.with_structured_output(Trip, method=method).invoke("Where to?").model_dump()
        for method in ("json_schema", "function_calling")
    }
    strict = model.with_structured_output(Trip, method="function_calling", strict=True)
    return {
        "called": told(called),
        "answer": told(answer),
        "streamed": told(streamed),
        "words": words,
        "agent": [turn.type for turn in turns] + [turns[-1].text],
        "both": [turn.type for turn in both["messages"]],
        "formed": both["structured_response"].model_dump(),
        "made": {**made, "strict": strict.invoke("Where to?").model_dump()},
    }


def main(url):
    facts = {"base_url": url, "api_key": "none", "model": "spelled", "max_retries": 0}
    chats = ChatOpenAI(**facts, include_response_headers=True)
    responses = ChatOpenAI(**facts, use_responses_api=True, include_response_headers=True)
    told = {"chats": asked(chats), "responses": asked(responses)}
    told["json"] = chats.with_structured_output(None, method="json_mode").invoke("A JSON object")
    print(json.dumps(told))


main(sys.argv[1])
