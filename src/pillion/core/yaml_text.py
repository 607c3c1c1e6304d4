"""YAML as people mean it: `on`, `off`, `yes` and `no` are words, and a key stands once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from functools import cache
from typing import Any

_BOOL = "tag:yaml.org,2002:bool"


def load_yaml(text: str) -> Any:
    """The content of a YAML text, by the booleans of YAML 1.2 (https://yaml.org/spec/1.2.2/#1032).

    PyYAML follows YAML 1.1, to which the key `on` and the label `no` are truth values.

    Raises:
        ValueError: it is no YAML, or a mapping has a key twice.
    """
    import yaml

    try:
        return yaml.load(text, _loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


@cache
def _loader() -> Any:
    """PyYAML's safe loader with these rules; made when it is needed, as PyYAML loads slowly."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = [name for name, count in Counter(names).items() if count > 1 and name != "<<"]
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {twice[0]!r} stands there twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag != _BOOL]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    pattern = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
    Loader.add_implicit_resolver(_BOOL, pattern, list("tTfF"))
    return Loader
