"""Objects of a schema with instructor, in each of its ways; prints what it got as JSON."""

import json
import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Trip(BaseModel):
    city: Literal["Paris", "Rome"]
    days: int = Field(ge=0)
    stops: list[Literal["Lyon", "Nice"]]


MODES = ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA", "RESPONSES_TOOLS")


def main(url):
    told = {}
    for mode in MODES:
        inner = OpenAI(base_url=url, api_key="none", max_retries=0)
        client = instructor.from_openai(inner, mode=getattr(instructor.Mode, mode))
        trip, raw = client.create_with_completion(
            model="spelled",
            response_model=Trip,
            messages=[{"role": "user", "content": "Where to? No bomb."}],
            max_retries=0,
        )
        told[mode] = {
            "class": type(trip).__name__,
            "trip": trip.model_dump(),
            "verdicts": raw.verdicts,
        }
    inner = OpenAI(base_url=url, api_key="none", max_retries=0)
    client = instructor.from_openai(inner, mode=instructor.Mode.JSON_SCHEMA)
    parts = client.create_partial(
        model="spelled", response_model=Trip, messages=[{"role": "user", "content": "Where to?"}]
    )
    told["partial"] = [part.model_dump() for part in parts][-1]
    print(json.dumps(told))


main(sys.argv[1])
