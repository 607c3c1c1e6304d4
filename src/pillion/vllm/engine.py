# pyright: reportMissingImports=false
"""vLLM as an engine: the same contract, and so the same server, as pillion's own.

Requests go to vLLM's asynchronous engine, which runs in processes of its own. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from pillion.backends.checkpoint import read_checkpoint
from pillion.backends.gguf import cache_root
from pillion.backends.rotation import check_engine_rotation
from pillion.core import (
    PROMPT_SCOPES,
    SCOPES,
    Event,
    Finished,
    PromptRead,
    TokenEvent,
    Verdict,
    as_tokens,
)
from pillion.errors import ConfigError, RunError
from pillion.probe import Artefact
from pillion.probe.group import group
from pillion.riding.report import LogitsByProbe
from pillion.riding.turns import turns_args
from pillion.riding.verdicts import verdicts_by_name
from pillion.runtime.decoding import Detokenizer
from pillion.runtime.engine import Engine, EngineStats, Request, check_room
from pillion.runtime.sampling import Sampling
from pillion.vllm.inbox import Inbox
from pillion.vllm.logprobs import logprobs, logs
from pillion.vllm.settings import PLUGIN, options
from pillion.vllm.start import check_probes, hears_reasoning
from pillion.vllm.taps import MemoryNeeds
from pillion.vllm.versions import check_version, vllm_version

CPU = torch.device("cpu")
ALONE = "alone-"
"""How the salts of requests begin that share no prefix with any other."""


class VllmEngine(Engine):
    """Serves a model with vLLM, probes riding along; see `Engine`.

    Args:
        model: `embedded`, a folder, or the name of a hub's model that was downloaded.
        probes: one or more; the room beside the KV cache is that which they need.
        dtype: to compute in; `auto` is the one the weights are stored in, or wider where that is
            faster.
        allow_mismatch: only warn of probes trained on other weights, tokenizer or template.
        others: more options of vLLM, such as `max_model_len` or `tensor_parallel_size`.

    Raises:
        ConfigError: no vLLM, or one that probes do not ride in; a model or probe that it cannot
            serve.
        MismatchError: a probe of another model.
    """

    def __init__(
        self,
        model: str,
        probes: Sequence[Artefact],
        dtype: str = "auto",
        allow_mismatch: bool = False,
        **others: Any,
    ) -> None:
        check_version(vllm_version())
        if not probes:
            raise ConfigError("Got no probe; vLLM is started with those that ride in it.")
        self._checkpoint = checkpoint = read_checkpoint(model, dtype)
        self.end_ids, self._allow_mismatch = checkpoint.end_ids, allow_mismatch
        self.codec, self.vocab_size = checkpoint.codec, checkpoint.vocab_size
        check_probes(probes, checkpoint.identity, allow_mismatch)
        self._needs = MemoryNeeds.of(group(probes, CPU, torch.float32))
        self._hears = hears_reasoning(probes, checkpoint.codec.reasoning_ids, None)
        self._probes = {artefact.name: artefact for artefact in probes}
        self._options: dict[str, Any] = {
            "model": str(checkpoint.folder),
            "dtype": checkpoint.dtype,
            "worker_extension_cls": "pillion.vllm.worker.ProbeWorker",
            **options(checkpoint.architectures, self._save(probes), allow_mismatch=allow_mismatch),
            **others,
        }
        window = others.get("max_model_len") or checkpoint.identity.context_tokens
        check_engine_rotation(checkpoint.rotation, "vLLM", window)
        if checkpoint.rotation is not None:  # by itself vLLM takes all that the model can
            self._options["max_model_len"] = window
        self.identity = replace(checkpoint.identity, context_tokens=window)
        self._engine: Any = None
        self._inbox = Inbox()
        self._stats, self._serial = EngineStats(), count()

    @property
    def probes(self) -> Mapping[str, Artefact]:
        """The probes that ride now, by name."""
        return dict(self._probes)

    async def start(self) -> None:
        """Starts vLLM, which takes half a minute or more.

        Raises:
            ConfigError: vLLM cannot run like this.
        """
        named = os.environ.get("VLLM_PLUGINS")
        if named is not None and PLUGIN not in named.split(","):
            os.environ["VLLM_PLUGINS"] = f"{named},{PLUGIN}"
        # Standard output is for what a verb answers.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._options))
        self._inbox.watch(self._engine.output_processor)

    @property
    def repeats_draws(self) -> bool:
        """Not on a CPU.

        vLLM moves the random source of a chunk that samples nothing; one of a CPU cannot be.
        """
        from vllm.platforms import current_platform

        return not current_platform.is_cpu()

    @property
    def failure(self) -> str | None:
        """Why no request can be taken any more; None while all is well."""
        return "vLLM's processes have died" if self._engine and self._engine.errored else None

    def submit(self, request: Request) -> AsyncGenerator[Event]:
        """The events of one request; see `Engine.submit`."""
        return self._events(request, answering=True)

    async def _events(self, request: Request, answering: bool) -> AsyncGenerator[Event]:
        """Of a request, or of a whole conversation whose last answer is read."""
        check_room(request, self.identity.context_tokens, self.vocab_size)
        if request.grammar:
            self.check_grammar(request.grammar)
        probes, letters = list(self._probes.values()), Detokenizer(self.codec)
        sampled, reason, began = 0, "length", False
        verdicts, read = dict[str, Verdict](), self._inbox.of(request.id)
        self._count(waiting=1)
        try:
            async with aclosing(self._outputs(request, answering)) as outputs:
                async for output in outputs:
                    if not began:
                        began, cached = True, output.num_cached_tokens or 0
                        prompt = len(request.token_ids)
                        self._count(waiting=-1, running=1, prompt_tokens=prompt)
                        self._count(cached_tokens=cached)
                        asked = await self._asked(request, read.prompt, answering)
                        yield PromptRead(asked, cached)
                    (answer,) = output.outputs
                    for token, found in zip(answer.token_ids, logs(answer), strict=True):
                        verdicts = verdicts_by_name(read.answer(sampled), probes)
                        if token in self.end_ids:
                            reason = "stop"
                            break
                        sampled += 1
                        text = letters.add(token, sampled == request.max_tokens)
                        self._count(generated_tokens=1)
                        yield TokenEvent(token, text, verdicts, *logprobs(token, found, request))
            yield Finished("stop" if reason == "stop" else "length", verdicts)
        finally:
            self._inbox.drop(request.id)
            self._count(**({"running": -1} if began else {"waiting": -1}))

    @property
    def longest_row(self) -> int:
        """VLLM has no pass without a sampled token, which needs a place as well."""
        return self.identity.context_tokens - 1

    async def _classify(
        self, rows: Sequence[Sequence[int]], artefacts: Sequence[Artefact], owner: str
    ) -> list[dict[str, Verdict]]:
        """Each in a request of its own; vLLM runs every block."""
        found = await asyncio.gather(*(self._read(row, answering=False) for row in rows))
        return [{a.name: v[a.name] for a in artefacts if a.name in v} for v in found]

    async def set_probes(self, probes: Sequence[Artefact]) -> None:
        """Replaces the probes when what is in flight has ended; see `Engine.set_probes`.

        Raises:
            ConfigError: they need more room than vLLM was started with, or other layers.
        """
        check_probes(probes, self.identity, self._allow_mismatch)
        hears_reasoning(probes, self._checkpoint.codec.reasoning_ids, not self._hears)
        if not self._needs.holds(MemoryNeeds.of(group(probes, CPU, torch.float32))):
            raise ConfigError(
                "These probes need more room or other layers than those that vLLM was started "
                "with; start it again with them."
            )
        config = self._engine.vllm_config.compilation_config
        if config.cudagraph_mode.has_full_cudagraphs():
            raise ConfigError(
                "Probes are part of vLLM's CUDA graphs and cannot be swapped; start it without "
                "graphs (--enforce-eager, in Python enforce_eager=True) or again with these probes."
            )
        folders = {name: str(folder) for name, folder in self._save(probes).items()}
        await self._engine.pause_generation(mode="wait", clear_cache=True)
        try:
            await self._engine.collective_rpc("set_probes", args=(folders,))
            self._probes = {artefact.name: artefact for artefact in probes}
        finally:
            await self._engine.resume_generation()

    def stats(self) -> EngineStats:
        """What has been done and what is going on."""
        return replace(self._stats, **self._inbox.stats())

    async def close(self) -> None:
        """Stops vLLM; what is in flight ends with a RunError."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.shutdown()

    # -- inside

    @staticmethod
    def _save(probes: Sequence[Artefact]) -> dict[str, Path]:
        """Folders of probes, for vLLM's processes; named by what they hold.

        vLLM keeps compiled graphs by its settings, these folders included: the next start finds
        them.
        """
        folders: dict[str, Path] = {}
        for artefact in probes:
            told = hashlib.sha256(artefact.card.model_dump_json().encode()).hexdigest()
            folders[artefact.name] = folder = cache_root() / "riding" / told[:32]
            artefact.save(folder)
        return folders

    async def _outputs(self, request: Request, answering: bool) -> AsyncGenerator[Any]:
        """The outputs as vLLM gives them."""
        if self._engine is None:
            raise RunError("The engine is shutting down; ask again when it is back.")
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt: dict[str, Any] = {"prompt_token_ids": list(request.token_ids)}
        if request.salt:
            prompt["cache_salt"] = request.salt
        try:
            outputs = self._engine.generate(prompt, self._sampling(request, answering), request.id)
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except (EngineDeadError, EngineGenerateError) as error:
            raise RunError(f"vLLM failed ({error}); see its log, and start it again.") from error

    def _sampling(self, request: Request, answering: bool) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.sampling.temperature,
            top_p=request.sampling.top_p,
            min_p=request.sampling.min_p,
            presence_penalty=request.sampling.presence_penalty,
            frequency_penalty=request.sampling.frequency_penalty,
            repetition_penalty=request.sampling.repetition_penalty,
            logit_bias=dict(request.sampling.logit_bias) or None,
            seed=request.sampling.seed if self.repeats_draws else None,
            max_tokens=request.max_tokens,
            logprobs=request.top_logprobs,
            ignore_eos=True,  # ends are ours, and the same as in any engine
            stop_token_ids=sorted(self.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=turns_args(as_tokens(request.token_ids), answering),
        )

    async def _asked(
        self, request: Request, numbers: LogitsByProbe, answering: bool
    ) -> Mapping[str, Verdict]:
        """Verdicts of a prompt, which is read once more where shared blocks do not tell its words.

        The request that filled them had other turns in the same tokens, as a raw prompt has none;
        of answers they keep nothing.
        """
        probes, row = list(self._probes.values()), as_tokens(request.token_ids)
        scopes = PROMPT_SCOPES if answering else SCOPES
        some = (a for a in probes if a.name not in numbers and a.card.scope in scopes)
        lost = any(row.ranges(artefact.card.scope) for artefact in some)
        if lost and not request.salt.startswith(ALONE):
            return await self._read(row, answering, f"{ALONE}{next(self._serial)}")
        return verdicts_by_name(numbers, probes)

    async def _read(
        self, row: Sequence[int], answering: bool, salt: str = ""
    ) -> Mapping[str, Verdict]:
        name = f"classify-{next(self._serial)}"
        request = Request(name, as_tokens(row), 1, Sampling(), salt=salt)
        async with aclosing(self._events(request, answering)) as events:
            async for event in events:
                if isinstance(event, PromptRead):
                    return event.verdicts
        raise RunError("vLLM ended without reading the text; see its log.")

    def _count(self, **changes: int) -> None:
        now = self._stats
        self._stats = replace(now, **{name: getattr(now, name) + n for name, n in changes.items()})
