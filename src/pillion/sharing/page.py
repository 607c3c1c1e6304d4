"""The page of a shared probe, in Markdown: what it is for, what it learnt from, how good it is.

Made of the card alone, and of a result file where one is given. Label and file names are data: they
are set as code and cannot become markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pillion.core import Scope
from pillion.errors import ConfigError
from pillion.metrics.curves import wilson
from pillion.probe import Artefact, Card

_READS: dict[Scope, str] = {
    "last-user": "the user's last turn",
    "user": "all turns of the user",
    "response": "the answer, token by token",
    "assistant": "all turns of the assistant",
    "tool": "results of tools",
    "system": "system prompts",
    "all": "every token",
}
_CODES = {
    "English": "en",
    "German": "de",
    "French": "fr",
    "Spanish": "es",
    "Portuguese": "pt",
    "Italian": "it",
    "Dutch": "nl",
    "Polish": "pl",
    "Turkish": "tr",
    "Swedish": "sv",
    "Indonesian": "id",
    "Hangul": "ko",
    "Kana": "ja",
}
"""What the hub calls languages; of scripts those that one language has."""
_LEARNT = 0.02
"""Share of the texts from which a language is named in the page's head."""
_NO_INTERVAL = "not known"
_LEARNT_FROM = " that the probe has learnt from (the numbers flatter)"
_VALIDATION = "Of the validation rows, which chose the epoch and the thresholds: they flatter."
_AS_TRAINED = " They are of the probe as training left it, before it was calibrated."
_CHOSEN_ON = " that its thresholds or calibration were chosen on (the numbers flatter)"


def model_page(probe: Artefact, url: str, result: Mapping[str, Any] | None = None) -> str:
    """The README of a shared probe.

    Args:
        probe: with its card.
        url: where it will lie.
        result: content of a result file of `pillion evaluate`; None where there is none.

    Raises:
        ConfigError: the result file is of something else than this probe, as its card now is.
    """
    card = probe.card
    parts = [
        _head(card),
        f"# {_plain(probe.name)}",
        _what(probe),
        _use(card, url),
        _data(card),
        _numbers(card, result),
        _limits(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(card: Card) -> str:
    """What the hub reads: between two lines of dashes."""
    known = [
        _CODES[one]
        for one, share in card.data.writings.items()
        if share >= _LEARNT and one in _CODES
    ]
    lines = ["library_name: pillion", "pipeline_tag: text-classification", "tags: [pillion, probe]"]
    if known:
        lines.append(f"language: [{', '.join(known)}]")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", card.model.name):
        lines.append(f"base_model: {json.dumps(card.model.name)}")
    return "\n".join(["---", *lines, "---"])


def _what(probe: Artefact) -> str:
    card = probe.card
    labels = ", ".join(map(_code, card.labels))
    return (
        f"A probe of [pillion](https://pypi.org/project/pillion/): a small classifier "
        f"({probe.network.num_parameters:,} parameters, kind {_code(card.probe)}) on the hidden "
        f"states of the language model {_code(card.model.name)}. It tells {labels} "
        f"({card.task}) from the pass that the model runs anyway, and reads {_READS[card.scope]}."
    )


def _use(card: Card, url: str) -> str:
    model = "" if card.model.name == "embedded" else f" --model {card.model.name}"
    return (
        "## Intended use\n\n"
        f"Labels for {_READS[card.scope]} of texts like those that it has learnt from, wrapped "
        f"by the template {_code(card.template)}, read from {_code(card.model.name)} in "
        f"{card.model.dtype} (weights {_code(card.model.weights_sha256[:16])}) and no other model: "
        "pillion refuses any other. A person should check its decisions where a mistake hurts.\n\n"
        f"`pillion pull {url} probe` fetches it, and "
        f'`pillion predict --probe probe --text "..."{model}` labels a text.'
    )


def _data(card: Card) -> str:
    data = card.data
    rows = [[_code(one.label), f"{one.train:,}", f"{one.validation:,}"] for one in data.labels]
    said = [
        "## Data",
        f"{data.num_rows:,} training rows of {_code(data.path)} ({data.split}; SHA-256 "
        f"{_code(data.sha256[:16])}). The page and the card hold none of its words.",
    ]
    if rows:
        said.append(_table(("label", "to learn from", "to validate on"), rows))
    said.append(_languages(card))
    if data.notes:
        said.append("\n".join(f"- {_plain(note)}" for note in data.notes))
    return "\n\n".join(said)


def _languages(card: Card) -> str:
    if not card.data.writings:
        return "Languages: not known (the card is from before they were noted)."
    named = [
        f"{'not told (Latin letters)' if one == 'Latin' else one} {share:.0%}"
        for one, share in card.data.writings.items()
    ]
    return f"Languages and scripts, as far as small words tell them: {', '.join(named)}."


def _numbers(card: Card, result: Mapping[str, Any] | None) -> str:
    said = ["## Numbers"]
    if result is None:
        then = "" if card.decisions is None else _AS_TRAINED
        said += [
            f"{_VALIDATION}{then}",
            _table(("metric", "value", "95 % interval"), _validation(card)),
        ]
    else:
        said += _measured(card, result)
    if thresholds := _thresholds(card):
        of = cast("dict[str, Any]", card.decisions)["data"]
        own = _LEARNT_FROM if of["sha256"] in card.learnt_from else " that it has not learnt from"
        chosen = f"{of['num_rows']:,} rows of {_code(str(of['path']))}{own}"
        said += [f"Thresholds, chosen on {chosen}:", thresholds]
    return "\n\n".join(said)


def _validation(card: Card) -> list[list[str]]:
    counted = sum(one.validation for one in card.data.labels)
    rows: list[list[str]] = []
    for name, value in card.metrics.items():
        if value is None:
            continue
        around = _NO_INTERVAL
        if name == "accuracy" and counted and card.task != "multilabel":
            around = _interval(wilson(value, counted))
        rows.append([name, f"{value:.3f}", around])
    return rows


def _measured(card: Card, result: Mapping[str, Any]) -> list[str]:
    if result.get("kind") != "evaluation" or tuple(result.get("labels", ())) != card.labels:
        raise ConfigError(
            "The result file is not of this probe: what `pillion evaluate --out` wrote, with "
            "the same labels, is meant."
        )
    _check_probe(card, result)
    (data, *_) = result["data"]
    chosen = _CHOSEN_ON if data["sha256"] in card.chosen_on else ""
    learnt = _LEARNT_FROM if data["sha256"] in card.learnt_from else chosen
    rows = [
        [
            str(one["metric"]),
            f"{one['value']:.3f}",
            _interval(one["interval"]) if one["interval"] else _NO_INTERVAL,
        ]
        for one in result["results"]
        if one["value"] is not None
    ]
    count = result["results"][0]["rows"]
    return [
        f"Measured on {count:,} rows of {_code(str(data['path']))} (SHA-256 "
        f"{_code(str(data['sha256'])[:16])}){learnt}, intervals by the bootstrap over rows:",
        _table(("metric", "value", "95 % interval"), rows),
    ]


def _check_probe(card: Card, result: Mapping[str, Any]) -> None:
    """Refuses numbers of another probe of the same labels, of an older state, of another model.

    Raises:
        ConfigError: naming what differs.
    """
    settings = result.get("settings", {})
    if settings.get("mismatch"):
        raise ConfigError(
            "The result file was measured on another model than that of the probe; measure it on "
            "its own, and give that file."
        )
    told = settings.get("probe", {})
    own = {**card.model_dump(mode="json"), "model": card.model.name}
    differs = [name for name, value in told.items() if name in own and _differ(value, own[name])]
    if differs:
        raise ConfigError(
            f"The result file is not of this probe as it is now: {', '.join(differs)} on its card "
            "differ; measure it with `pillion evaluate --out`, and give that file."
        )


def _differ(told: Any, own: Any) -> bool:
    """Whether two values are not the same in what both hold: older files know fewer settings."""
    if isinstance(told, Mapping) and isinstance(own, Mapping):
        both = cast("Mapping[str, Any]", told).keys() & cast("Mapping[str, Any]", own).keys()
        return any(_differ(told[name], own[name]) for name in both)
    return told != own


def _thresholds(card: Card) -> str:
    found = cast("list[dict[str, Any]]", (card.decisions or {}).get("thresholds") or [])
    names = ("threshold", "fpr", "recall", "precision")
    rows = [
        [_code(str(one["label"])), *(_with_interval(one, name) for name in names)] for one in found
    ]
    header = ("label", "threshold", "false positive rate", "recall", "precision")
    return _table(header, rows) if rows else ""


def _with_interval(one: Mapping[str, Any], name: str) -> str:
    value, around = one.get(name), one.get(f"{name}_interval")
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" {_interval(around)}" if around else "")


def _limits(card: Card) -> str:
    kinds = (
        "Texts of another kind (topic, length, language, wording) than those that it has learnt "
        "from: measure it on yours before you rely on it.",
        "It says what the model's states show of a text. It does not know what is true.",
        "It can be misled on purpose, as any classifier of texts.",
    )
    versions = ", ".join(f"{name} {version}" for name, version in card.versions.items())
    listed = "\n".join(f"- {one}" for one in kinds)
    return f"## Limits\n\n{listed}\n\nTrained with {versions}, seed {card.seed}."


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"[{low:.3f}, {high:.3f}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(name: str) -> str:
    """A name as code, whatever stands in it."""
    words = " ".join(name.split()).replace("|", "\\|").replace("`", "'")
    return f"`{words}`"


def _plain(words: str) -> str:
    """Words on one line in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(words.split()))
