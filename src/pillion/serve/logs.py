"""The log: one JSON object a line. Holds no prompt and no answer unless that was asked for."""

from __future__ import annotations

import datetime
import json
import logging
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

NAME = "pillion.serve"


class Log:
    """Writes events of the server to the logger `pillion.serve`.

    Args:
        texts: whether prompts and answers may be written.
    """

    def __init__(self, texts: bool = False) -> None:
        self.texts = texts
        self._logger = logging.getLogger(NAME)

    def __call__(self, event: str, texts: dict[str, Any] | None = None, **facts: Any) -> None:
        """Writes an event.

        Args:
            event: its name.
            texts: what is written only where texts may be.
            facts: numbers, names and verdicts.
        """
        shown = facts | (texts or {}) if self.texts else facts
        self._logger.info(event, extra={"facts": shown})

    def failure(self, error: BaseException, **facts: Any) -> None:
        """Writes an unexpected error: its kind and where, but not its words.

        They may quote what a client sent.
        """
        facts |= {"error": type(error).__name__, "at": places(error.__traceback__)}
        if self.texts:
            facts["message"] = str(error)
        self._logger.error("failure", extra={"facts": facts})


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        content: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info and record.exc_info[0]:
            content["error"] = record.exc_info[0].__name__
            content["at"] = places(record.exc_info[2])
        return json.dumps(content, default=str)


def set_up(level: int = logging.INFO) -> None:
    """Sends every event to standard error as JSON: the server's, its engine's, libraries' warnings.

    Also errors that end a thread.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in (NAME, "uvicorn.error", "pillion.engine", "transformers", "py.warnings"):
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(level if name in (NAME, "uvicorn.error") else logging.WARNING)
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        Log().failure(failed.exc_value, thread=failed.thread and failed.thread.name)


def places(trace: TracebackType | None) -> list[str]:
    """Where an error came from, innermost last: file, line, function."""
    return [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]
