"""Options of verbs in groups: a frozen dataclass whose fields are options stands for one parameter.

Promises that an option's default, range and help are written once, wherever it is taken: here and
beside the verbs in cli, with defaults of `pillion.core.defaults`. Loads no model.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

import typer

from pillion.core import OnTooLong, Scope, Template, defaults
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from pillion.runtime import LanguageModel

SEED_MAX = 2**32 - 1

SOURCES = (
    "a Parquet, CSV or JSON Lines file, a folder or pattern of them, a URL of these (s3://...), or "
    "hf:NAME[:SPLIT]"
)
"""Where rows may come from, for the help of options."""

Model = Annotated[
    str,
    typer.Option(
        help="Causal LM: embedded, a folder, a GGUF file, a hub name, or fake (for dry runs)."
    ),
]
Dtype = Annotated[
    Literal["auto", "bfloat16", "float16", "float32"],
    typer.Option(help="Data type of the model's weights; auto: as they are stored."),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Compute in float32: verdicts do not depend on what else is in the batch.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto takes a GPU where there is one.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Layers = Annotated[
    str | None,
    typer.Option(help="Layers to read, such as 0-15 or 0,4,8 (0: embeddings); default: all."),
]
Wrapping = Annotated[
    Template | None,
    typer.Option(
        "--template",
        help="chat wraps a text as a user's turn, raw leaves it; default: chat, or raw where the "
        "model has no chat template.",
    ),
]
Scoped = Annotated[
    Scope | None,
    typer.Option(
        "--scope",
        help="Whose words are read: last-user, user, response (the answer), assistant, tool, "
        "system, or all tokens, the template's too; default: last-user, response where rows end "
        "with an answer, all with --template raw.",
    ),
]
Placed = Annotated[
    str,
    typer.Option(
        "--contexts",
        metavar="FILE|shipped|none",
        help="Put rows behind system prompts and earlier turns: those that come with pillion, or "
        "those of a file with a column of messages.",
    ),
]
TooLong = Annotated[
    OnTooLong,
    typer.Option("--on-too-long", help="What to do with a text beyond the context window."),
]
AllowMismatch = Annotated[
    bool,
    typer.Option(
        "--allow-mismatch",
        help="Only warn if the model has other weights, tokenizer or chat template than the "
        "probe's; another shape stays an error.",
    ),
]
Probes = Annotated[
    list[str],
    typer.Option(
        "--probe",
        metavar="DIR",
        help="Folder of a trained probe; repeat it for several in one pass.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The language model, and what becomes of texts and probes that do not fit it.

    Raises:
        ConfigError: `--exact` beside another dtype than float32.
    """

    model: Model = defaults.MODEL
    dtype: Dtype = defaults.DTYPE
    exact: Exact = False
    device: Device = defaults.DEVICE
    on_too_long: TooLong = defaults.ON_TOO_LONG
    allow_mismatch: AllowMismatch = False

    def __post_init__(self) -> None:
        if self.exact and self.dtype not in ("auto", "float32"):
            raise ConfigError(
                f"--exact computes in float32, --dtype {self.dtype} does not; drop one."
            )

    @property
    def computed(self) -> str:
        """What `--dtype` and `--exact` ask for together."""
        return "float32" if self.exact else self.dtype

    def words(self) -> list[str]:
        """The options that run this model so again, as one types them; none for the defaults."""
        usual = EngineOptions()
        options = {
            "--model": (self.model, usual.model),
            "--dtype": (self.computed, usual.dtype),
            "--device": (self.device, usual.device),
            "--on-too-long": (self.on_too_long, usual.on_too_long),
        }
        given = [(name, value) for name, (value, default) in options.items() if value != default]
        return [word for pair in given for word in pair] + (
            ["--allow-mismatch"] if self.allow_mismatch else []
        )

    def load(self) -> LanguageModel:
        """The language model, loaded onto the device, ready to read probes."""
        from pillion.runtime import LanguageModel

        return LanguageModel.load(self.model, self.computed, self.device)


class Without:
    """Marks the parameter of a group: the verb takes these options not, and their defaults hold.

    As in `Annotated[EngineOptions, Without("exact")]`.
    """

    def __init__(self, *names: str) -> None:
        self.names = names


def takes_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with one option for each field of a group, in the place of the group's parameter."""
    known = inspect.signature(verb, eval_str=True).parameters
    groups = {name: _group(one.annotation) for name, one in known.items()}
    options = {
        name: [one] if (group := groups[name]) is None else _options(*group)
        for name, one in known.items()
    }

    @wraps(verb)
    def with_options(**given: Any) -> None:
        made: dict[str, Any] = {}
        for name, group in groups.items():
            own = {one.name: given[one.name] for one in options[name]}
            made[name] = own[name] if group is None else group[0](**own)
        verb(**made)

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for some in options.values()
        for one in some
    ]
    # typer reads both.
    with_options.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options


def _group(annotation: Any) -> tuple[type[Any], tuple[str, ...]] | None:
    """The group that an annotation names, and the options left out; None for a single option."""
    marks = getattr(annotation, "__metadata__", ())
    group = get_args(annotation)[0] if marks else annotation
    if not isinstance(group, type) or not is_dataclass(group):
        return None
    return group, tuple(name for one in marks if isinstance(one, Without) for name in one.names)


def _options(group: type[Any], left_out: tuple[str, ...]) -> list[inspect.Parameter]:
    """A parameter for each option, with its annotation and default."""
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=hints[one.name],
        )
        for one in fields(group)
        if one.name not in left_out
    ]
