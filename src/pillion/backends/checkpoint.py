"""A model as it lies in a folder: its identity and its tokenizer, without loading its weights.

For engines that load and run models themselves: a probe of another model is refused before they do.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pillion.backends.codec import Codec
from pillion.backends.conversion import loads_of
from pillion.backends.embedded import local_folder
from pillion.backends.fingerprint import fingerprint_of
from pillion.backends.identity import end_ids, find_blocks, identify
from pillion.backends.rotation import Rotation, rotation_of
from pillion.core import ModelIdentity
from pillion.core.arithmetic import fast_dtype
from pillion.errors import ConfigError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """What a model's files say of it.

    Attributes:
        folder: where they lie.
        identity: what `load_backend` of the same model and dtype would have.
        dtype: to compute in, such as `bfloat16`.
        codec: its tokenizer.
        end_ids: tokens that end an answer.
        vocab_size: token ids are below this.
        architectures: names of its classes, as its configuration has them.
        is_quantised: whether its files hold quantised weights.
        rotation: of its positions, where it follows the length of texts.
    """

    folder: Path
    identity: ModelIdentity
    dtype: str
    codec: Codec
    end_ids: frozenset[int]
    vocab_size: int
    architectures: tuple[str, ...]
    is_quantised: bool = False
    rotation: Rotation | None = None


def read_checkpoint(
    model: str, dtype: str = "auto", revision: str | None = None, tokenizer: str | None = None
) -> Checkpoint:
    """The model of that name.

    Args:
        model: `embedded`, a folder, or the name of a hub's model that was downloaded.
        dtype: to compute in, such as `bfloat16`; `auto` is the one it is stored in, or wider where
            that is faster.
        revision: of a hub's model.
        tokenizer: the model that its tokenizer is taken from; None for its own.

    Raises:
        ConfigError: it is not there, or no causal LM of transformers in safetensors.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    folder = model_folder(model, revision)
    words_of = folder if tokenizer is None else model_folder(tokenizer)
    try:
        words: Any = AutoTokenizer.from_pretrained(words_of, local_files_only=True)
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            network: Any = AutoModelForCausalLM.from_config(config)
        if (folder / "generation_config.json").exists():
            network.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"Model {model!r} could not be read ({first_line}); give a causal LM of transformers."
        ) from error
    stored = getattr(config.get_text_config(), "dtype", None) or torch.float32
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    computed = fast_dtype(stored, device) if dtype == "auto" else getattr(torch, dtype)
    known = stored if computed.itemsize > stored.itemsize else computed
    with ExitStack() as stack:
        weights = fingerprint_of(_weights(folder, model, network, known, stack))
    blocks = find_blocks(network)[1]
    return Checkpoint(
        folder,
        identify(network, words, model, len(blocks), known, weights),
        str(computed).removeprefix("torch."),
        Codec(words, model),
        end_ids(network, words),
        network.get_input_embeddings().weight.shape[0],
        tuple(config.architectures or ()),
        getattr(config, "quantization_config", None) is not None,
        rotation_of(config),
    )


def load_codec(model: str) -> Codec:
    """The tokenizer of a model alone.

    Args:
        model: `embedded`, a folder, or the name of a hub's model that was downloaded.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model_folder(model), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"The tokenizer of {model!r} could not be read ({first_line}); give a model of "
            "transformers."
        ) from error
    return Codec(tokenizer, model)


def model_folder(model: str, revision: str | None = None) -> Path:
    """Where a model's files lie: those of `local_folder`, or the local copy of a hub's.

    Raises:
        ConfigError: there is no local copy.
    """
    if folder := local_folder(model):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"Model {model!r} is neither a folder nor in the local cache of the hub; download it "
            "first (`hf download`), or give its folder."
        ) from error


def _weights(
    folder: Path, name: str, network: Any, dtype: torch.dtype, stack: ExitStack
) -> Iterator[tuple[str, Any]]:
    """Every value of the model's state by name, as loading makes it of what lies on disk."""
    from safetensors import safe_open

    files = _files(folder, name)
    opened = {
        path: stack.enter_context(safe_open(folder / path, framework="pt"))
        for path in set(files.values())
    }

    def read(key: str) -> Tensor:
        tensor = opened[files[key]].get_tensor(key)
        narrower = tensor.is_floating_point() and dtype.itemsize < tensor.dtype.itemsize
        return tensor.to(dtype) if narrower else tensor

    state = network.state_dict(keep_vars=True)
    names = defaultdict[int, list[str]](list)
    for key, tensor in state.items():
        names[id(tensor)].append(key)  # tied tensors lie on disk once
    missing = set(state)
    for load in loads_of(network, files, read):
        for key, value in load().items():
            same = names[id(state[key])]
            missing.difference_update(same)
            yield from ((one, value) for one in same)
    if missing:
        raise ConfigError(
            f"Model {name!r} has no tensor {min(missing)!r} in its files, so its weights cannot be "
            "told from another model's; save it again with transformers (`save_pretrained`)."
        )


def _files(folder: Path, name: str) -> dict[str, str]:
    """Which file holds each tensor."""
    from safetensors import safe_open

    if (folder / _INDEX).exists():
        return json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    if not (folder / _SINGLE).exists():
        raise ConfigError(
            f"Model {name!r} has no {_SINGLE} in {folder}; convert its weights to safetensors."
        )
    with safe_open(folder / _SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), _SINGLE)
