"""Records what the vLLM adapter relies on, from the package's sources and without importing them.

    python tests/engines/vllm/record.py FOLDER_OF_THE_VLLM_PACKAGE > tests/engines/vllm/surface.json

The record is what the stand-in, `stand_in.py`, is built from, and what an installed vLLM is
compared with. To adopt a new version, record it and read the difference.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from functools import cache
from pathlib import Path

FIELDS = {
    "config/cache.py": ["CacheConfig"],
    "config/kv_events.py": ["KVEventsConfig"],
    "config/kv_transfer.py": ["KVTransferConfig"],
    "config/model.py": ["ModelConfig"],
    "config/scheduler.py": ["SchedulerConfig"],
    "config/structured_outputs.py": ["StructuredOutputsConfig"],
    "config/vllm.py": ["VllmConfig"],
    "distributed/kv_events.py": [
        *("EventBatch", "KVEventBatch", "BlockStored", "BlockRemoved", "AllBlocksCleared"),
    ],
    "engine/arg_utils.py": ["EngineArgs", "AsyncEngineArgs"],
    "logprobs.py": ["FlatLogprobs"],
    "lora/request.py": ["LoRARequest"],
    "outputs.py": ["CompletionOutput"],
    "sampling_params.py": ["SamplingParams", "StructuredOutputsParams"],
    "v1/metrics/stats.py": ["SchedulerStats", "RequestStateStats"],
}
"""Classes whose annotated fields are recorded."""

SIGNATURES = {
    "config/model.py": ["ModelConfig.get_vocab_size"],
    "inputs/engine.py": ["tokens_input"],
    "outputs.py": ["RequestOutput.__init__"],
    "sampling_params.py": ["SamplingParams.verify"],
    "v1/engine/async_llm.py": [
        f"AsyncLLM.{name}"
        for name in (
            *("from_engine_args", "generate", "abort", "shutdown", "errored"),
            *("add_lora", "remove_lora"),
            *("get_supported_tasks", "get_tokenizer", "is_tracing_enabled"),
        )
    ],
    "v1/engine/exceptions.py": ["EngineDeadError.__init__"],
    "v1/metrics/loggers.py": ["StatLoggerBase.record", "PrometheusStatLogger.__init__"],
}
"""Functions and methods whose parameters are recorded."""

CONSTANTS = {
    "sampling_params.py": ["RequestOutputKind"],
    "usage/usage_lib.py": ["UsageContext"],
    "v1/engine/__init__.py": ["FINISH_REASON_STRINGS"],
    "v1/worker/gpu/sample/bad_words.py": ["MAX_BAD_WORDS_TOTAL_TOKENS", "MAX_NUM_BAD_WORDS"],
    "v1/worker/gpu/sample/logit_bias.py": ["MAX_NUM_LOGIT_BIAS_TOKENS", "MAX_NUM_STOP_TOKEN_IDS"],
    "config/lora.py": ["MaxLoRARanks"],
}
"""Enumerations, whose members are recorded, and constants, whose values are."""

IMPORTED = {
    "config/__init__.py": ["KVEventsConfig", "KVTransferConfig", "StructuredOutputsConfig"],
    "version.py": ["__version__"],
}
"""Further names that modules offer."""


class Package:
    """The sources of a vLLM package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cache  # noqa: B019 - one package, for as long as the process runs
    def _module(self, file: str) -> ast.Module:
        return ast.parse((self._folder / file).read_text())

    def _find(self, file: str, path: str) -> ast.AST:
        found: ast.AST = self._module(file)
        for name in path.split("."):
            found = next(node for node in found.body if getattr(node, "name", None) == name)
        return found

    def fields(self, file: str, name: str) -> dict[str, str]:
        """Returns each field's annotation, with ` = ` and its default where it has one."""
        return {
            node.target.id: ast.unparse(node).partition(": ")[2]
            for node in self._find(file, name).body
            if isinstance(node, ast.AnnAssign)
        }

    def signature(self, file: str, path: str) -> list[str]:
        """Returns the parameters, without `self` or `cls`, each as it is written."""
        arguments = ast.unparse(self._find(file, path).args)
        tree = ast.parse(f"def f({arguments}): ...").body[0].args
        written = [*_with_defaults(tree)]
        return [each for each in written if each not in ("self", "cls")]

    def constant(self, file: str, name: str) -> object:
        """Returns an enumeration's members or a constant's value."""
        for node in self._module(file).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                assigned = (each for each in node.body if isinstance(each, ast.Assign))
                return {each.targets[0].id: ast.literal_eval(each.value) for each in assigned}
            if isinstance(node, ast.Assign) and node.targets[0].id == name:
                value = node.value
                literal = value.slice if isinstance(value, ast.Subscript) else value
                return ast.literal_eval(literal)
        raise LookupError(f"{file} has no {name}")

    def highest_temperature(self) -> float:
        """Returns what SamplingParams compares the temperature with."""
        for node in ast.walk(self._find("sampling_params.py", "SamplingParams._verify_args")):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Gt):
                if ast.unparse(node.left) != "self.temperature":
                    continue
                return float(ast.literal_eval(node.comparators[0]))
        raise LookupError("SamplingParams has no highest temperature")

    def version(self) -> str:
        """Returns the version that the package was built as."""
        found = re.search(r"version = '([0-9.]+)", (self._folder / "_version.py").read_text())
        if found is None:
            raise LookupError("_version.py has no version")
        return found[1]

    def environment(self) -> list[str]:
        """Returns the names of the environment variables that vLLM reads."""
        for node in self._module("envs.py").body:
            target = getattr(node, "target", None)
            if isinstance(node, ast.AnnAssign) and target.id == "environment_variables":
                return sorted(ast.literal_eval(key) for key in node.value.keys)
        raise LookupError("envs.py has no environment_variables")

    def offers(self, file: str, name: str) -> bool:
        """Tells whether a module defines or imports a name."""
        for node in ast.walk(self._module(file)):
            names = [getattr(node, "name", None), *(a.name for a in getattr(node, "names", ()))]
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(node.id)
            if name in names:
                return True
        return False


def _with_defaults(tree: ast.arguments) -> list[str]:
    missing = len(tree.args) - len(tree.defaults)
    written = [
        each.arg if at < missing else f"{each.arg}={ast.unparse(tree.defaults[at - missing])}"
        for at, each in enumerate(tree.args)
    ]
    if tree.kwonlyargs:
        written.append("*")
    for each, default in zip(tree.kwonlyargs, tree.kw_defaults, strict=True):
        written.append(each.arg if default is None else f"{each.arg}={ast.unparse(default)}")
    if tree.kwarg is not None:
        written.append(f"**{tree.kwarg.arg}")
    return written


def record(folder: Path) -> dict[str, object]:
    """Returns the record of the package in a folder.

    Raises:
        LookupError or StopIteration: something that the adapter relies on is gone.
    """
    package = Package(folder)
    for file, names in IMPORTED.items():
        for name in names:
            if not package.offers(file, name):
                raise LookupError(f"{file} has no {name}")

    def each(surface, read):
        return {
            f"{_module_name(file)}.{name}": read(file, name)
            for file, names in surface.items()
            for name in names
        }

    return {
        "fields": each(FIELDS, package.fields),
        "signatures": each(SIGNATURES, package.signature),
        "constants": each(CONSTANTS, package.constant),
        "imported": [f"{_module_name(file)}.{n}" for file, ns in IMPORTED.items() for n in ns],
        "version": package.version(),
        "highest_temperature": package.highest_temperature(),
        "environment": package.environment(),
    }


def _module_name(file: str) -> str:
    return "vllm." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


if __name__ == "__main__":
    print(json.dumps(record(Path(sys.argv[1])), indent=1))
