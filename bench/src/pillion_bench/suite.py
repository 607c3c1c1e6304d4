"""What a benchmark of accuracy measures: data sets, methods, seeds; one strict TOML or YAML file.

Promises that an unknown key or a value that does not fit is one sentence. Does not know how a
method works, nor where the data lies.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from pillion.core import OnTooLong, Scope, Template, defaults, scope_of_ends
from pillion.core.strict import UNKNOWN, Strict, first_fault
from pillion.core.yaml_text import load_yaml
from pillion.errors import ConfigError, unknown_name

_Model = TypeVar("_Model", bound=BaseModel)

DEFAULT = "default"
"""The suite that ships."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
"""Of a data set or a method: it names files, too."""

Share = Annotated[float, Field(gt=0, lt=1)]


class DataSpec(Strict):
    """One data set.

    Attributes:
        train: a file below the data root, or `hf:NAME[:SPLIT]`.
        test: another one, or the share of `train` that is held back as the test.
        validation: another one, or the share of the training rows that is held back.
        text_column: column of the texts, where rows are not conversations.
        label_column: column of the labels.
        messages_column: column of the conversations, where rows are such.
        prompt_column: column of the prompts, where rows are prompt and response.
        response_column: column of the answers to them.
        positive: which of two labels is the positive one; None to tell by their names.
        template: how the model is shown a text.
        scope: whose words are read, by probes as states and by methods of texts as text; other
            scopes than `all` want the template `chat`. By default `last-user`, `response` of a
            prompt and its response, `all` of raw texts.
        on_too_long: what happens to a text beyond the context window.
        layers: those whose states are extracted; None for all, embeddings included.
        max_train_rows: rows of `train` that are drawn at random, validation included.
        max_test_rows: rows of `test` that are drawn at random.
        seed: of these draws and of the split.
        metrics: those that lead the table; None for those of the task. The first chooses settings.
        recalls: labels whose recall stands in the table, too.
    """

    train: str
    test: str | Share
    validation: str | Share = 0.1
    text_column: str = "text"
    label_column: str = "label"
    messages_column: str | None = None
    prompt_column: str | None = None
    response_column: str | None = None
    positive: str | None = None
    template: Template = defaults.TEMPLATE
    scope: Scope = "last-user"  # or see `_usual_scope`
    on_too_long: OnTooLong = "error"
    layers: tuple[int, ...] | None = None
    max_train_rows: int | None = Field(default=None, ge=2)
    max_test_rows: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    metrics: tuple[str, ...] | None = None
    recalls: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _usual_scope(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Where none is named, whose words are read is told by the rows, as in training."""
        answered = content.get("prompt_column") or content.get("response_column")
        template = content.get("template", defaults.TEMPLATE)
        return {"scope": scope_of_ends({"assistant" if answered else "user"}, template)} | content

    @property
    def identity(self) -> dict[str, Any]:
        """What numbers depend on; without conversations it is what it was before there were any."""
        names = ("messages_column", "prompt_column", "response_column")
        unused = {name for name in names if getattr(self, name) is None}
        unused |= {"scope"} if self.scope == "all" else set[str]()
        return self.model_dump(exclude={"recalls", *unused})


class MethodSpec(Strict):
    """One method.

    Attributes:
        kind: a name of `pillion_bench.baselines.METHODS`.
        data: the data sets it is measured on; None for all.
        seeds: other seeds than the suite's; a method without chance in it takes the first alone.
        settings: of the kind.
        per_data: settings that one data set has of its own, on top.
    """

    kind: str
    data: tuple[Name, ...] | None = None
    seeds: tuple[int, ...] | None = Field(default=None, min_length=1)
    settings: dict[str, Any] = Field(default_factory=dict[str, Any])
    per_data: dict[Name, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])

    def options(self, data: str) -> dict[str, Any]:
        """The settings on one data set."""
        return {**self.settings, **self.per_data.get(data, {})}


class Suite(Strict):
    """Data sets x methods x seeds.

    Attributes:
        name: of the suite; its result files start with it.
        model: causal LM: `embedded`, a folder, a hub name, or `fake`.
        dtype: that the model computes in; `auto` is the one its weights are stored in, or float32
            on a processor without arithmetic in that one.
        seeds: of every method that has chance in it.
        data: data sets by name.
        methods: methods by name.
    """

    name: Name = "accuracy"
    model: str = "embedded"
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    data: dict[Name, DataSpec] = Field(min_length=1)
    methods: dict[Name, MethodSpec] = Field(min_length=1)

    def methods_of(self, data: str) -> dict[str, MethodSpec]:
        """The methods that are measured on a data set, in their order."""
        return {n: m for n, m in self.methods.items() if m.data is None or data in m.data}

    def on_model(self, model: str, name: str) -> Suite:
        """The same rows and methods on another model.

        Args:
            model: see `model`.
            name: ends the names of the data sets, and so of the result files.
        """
        names = {data: f"{data}-{name}" for data in self.data}

        def renamed(spec: MethodSpec) -> MethodSpec:
            data = spec.data and tuple(names[one] for one in spec.data)
            per_data = {names[one]: own for one, own in spec.per_data.items()}
            return spec.model_copy(update={"data": data, "per_data": per_data})

        content = {
            "model": model,
            "data": {names[one]: spec for one, spec in self.data.items()},
            "methods": {one: renamed(spec) for one, spec in self.methods.items()},
        }
        return self.model_copy(update=content)


def load_suite(source: str) -> Suite:
    """The suite of a `.toml`, `.yaml` or `.yml` file, or the one that ships (`default`).

    Raises:
        ConfigError: a file that cannot be read, or that holds what a suite does not.
    """
    name, text = _read(source)
    content = _parse(text, name)
    suite = checked(Suite, content, name)
    for method, spec in suite.methods.items():
        for data in (*(spec.data or ()), *spec.per_data):
            if data not in suite.data:
                error = unknown_name("data set", data, suite.data)
                raise ConfigError(f"{name}, methods.{method}: {error}")
    return suite


def checked(model: type[_Model], content: Mapping[str, Any], where: str) -> _Model:
    """The values as a strict model.

    Args:
        model: its class.
        content: the values.
        where: what an error names.

    Raises:
        ConfigError: in one sentence, with the nearest known key for one that is unknown.
    """
    try:
        return model(**content)
    except (ValidationError, ConfigError) as error:
        cause = error if isinstance(error, ValidationError) else error.__cause__
        if not isinstance(cause, ValidationError):
            raise
        fault = first_fault(cause)
        own = fault.kind == UNKNOWN or fault.field in model.model_fields
        if cause is not error and not own:
            raise  # of the settings of a probe inside, which it names
        if fault.kind == UNKNOWN:
            unknown = unknown_name("key", fault.path[-1], _keys_at(model, fault.path[:-1]))
            raise ConfigError(f"{where}, {fault.place}: {unknown}") from error
        raise ConfigError(f"{where}, {fault.place or 'top'}: {fault.message}.") from error


def _keys_at(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """The keys that a nested part of a model takes."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[part].annotation
        elif get_origin(here) is dict:
            here = get_args(here)[1]
    is_model = isinstance(here, type) and issubclass(here, BaseModel)
    return list(here.model_fields) if is_model else []


def _read(source: str) -> tuple[str, str]:
    if source == DEFAULT:
        file = resources.files("pillion_bench") / "suites" / "default.toml"
        return file.name, file.read_text(encoding="utf-8")
    path = Path(source)
    if path.suffix.lower() not in (".toml", ".yaml", ".yml"):
        raise ConfigError(f"{source} is no .toml, .yaml or .yml file; give one, or {DEFAULT!r}.")
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} cannot be read ({error}); give a suite file.") from error


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        content: Any = (tomllib.loads if name.endswith(".toml") else load_yaml)(text)
    except ValueError as error:
        raise ConfigError(f"{name} cannot be parsed: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{name} holds no table of names; see the suite that ships.")
    return content
