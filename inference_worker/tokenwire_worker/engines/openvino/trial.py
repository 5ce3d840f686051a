"""Tries a guide's form on the grammar compiler, in this process or as a process of its own.

The compiler is reached only through generation, so there is a pipeline for it: a model of one tiny
layer with the real vocabulary. A form that does not compile raises there at the first token, and
not in the pipeline that serves, which such an exception leaves unusable. What a form costs at each
token is seen on an output drawn at random.

As a process, `python -m tokenwire_worker.engines.openvino.trial TOKENIZER VOCABULARY STOP_ID`, it
answers as in `guides.process`, and exists to be lost.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as ops
import openvino_genai as ov_genai

from tokenwire_worker.engines.guides.process import FaultOf, Tries, answer
from tokenwire_worker.engines.guides.walk import WALK_OUTPUTS, WALK_TOKENS, Walk
from tokenwire_worker.engines.openvino.config import structured_output
from tokenwire_worker.engines.port import Ability, Guide
from tokenwire_worker.engines.text import told

MEMORY_BYTES = 2 * 1024**3
"""What compiling one form may add to the process's address space."""

STACK_BYTES = 4 * 1024**2
"""Stack of the thread that compiles, half of what the serving process's threads have: what fits
here fits there."""


_UNLIKELY = -20.0
"""Logit of the end, so that an output goes on where it may: all others are 0."""

_QUOTED_TOKENS = 8
"""One token in so many is a quote, where any token may come: so strings end, and a walk leaves
them."""


_STREAMING = (ov_genai.StreamingStatus.RUNNING, ov_genai.StreamingStatus.STOP)


class _Streamer(ov_genai.StreamerBase):  # type: ignore[misc]
    """Counts tokens for a walk, and ends it."""

    def __init__(self, walk: Walk) -> None:
        super().__init__()
        self._walk = walk

    def write(self, _ids: Any) -> Any:
        """Takes a token, on the thread that generates."""
        self._walk.take()
        return _STREAMING[self._walk.is_over]

    def end(self) -> None:
        """Nothing is left to be done."""


class Trial:
    """A pipeline that generates from a form, to see whether it compiles and what it costs."""

    def __init__(self, tokenizer: Any, vocabulary_size: int, stop_id: int) -> None:
        """Builds the pipeline.

        Args:
            tokenizer: openvino_genai.Tokenizer; compiled forms are cached with it, so trying a form
                on the serving pipeline's own spares that the compiling.
            vocabulary_size: the model's; the cache is kept by it.
            stop_id: an end-of-sequence id.
        """
        with tempfile.TemporaryDirectory(prefix="tokenwire-trial-") as folder:
            model = _tiny_model(_logits(tokenizer, vocabulary_size, stop_id))
            ov.save_model(model, Path(folder) / "openvino_model.xml")
            self._pipeline = ov_genai.LLMPipeline(
                folder, tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1
            )
        self._stop_id = stop_id
        self._vocabulary_size = vocabulary_size

    def fault(self, guide: Guide) -> str | None:
        """Compiles a form; returns what is wrong with it, or None."""
        return self._generate(guide, 1, None)

    def walk_fault(self, guide: Guide) -> str | None:
        """Draws outputs of a form; returns what is wrong with their cost, or None."""
        walk = Walk(self._vocabulary_size)
        for seed in range(WALK_OUTPUTS):
            fault = self._generate(guide, WALK_TOKENS, _Streamer(walk), seed)
            if fault is not None or walk.is_over:
                break
        return fault or walk.fault()

    def _generate(
        self, guide: Guide, tokens: int, streamer: _Streamer | None, seed: int = 0
    ) -> str | None:
        config = ov_genai.GenerationConfig()
        config.max_new_tokens = tokens
        config.stop_token_ids = {self._stop_id}
        config.eos_token_id = self._stop_id
        config.do_sample = True
        config.rng_seed = seed
        try:
            config.structured_output_config = structured_output(guide)
            prompt = ov.Tensor(np.zeros((1, 1), dtype=np.int64))
            self._pipeline.generate(prompt, config, streamer)
        except Exception as error:  # noqa: BLE001 - the compiler's errors have no type of their own
            return told(error)
        return None


def _logits(tokenizer: Any, vocabulary_size: int, stop_id: int) -> Any:
    """Returns the logits of every token: float32[vocabulary_size]."""
    logits = np.zeros(vocabulary_size, np.float32)
    quote = tokenizer.encode('"', add_special_tokens=False).input_ids.data
    if quote.size:
        logits[quote.ravel()[-1]] = np.log(vocabulary_size / _QUOTED_TOKENS)
    logits[stop_id] = _UNLIKELY
    return logits


def _tiny_model(every: Any) -> Any:
    """Returns a stateful language model of one attention layer, whose weights are zero.

    Args:
        every: the logits after any text, float32[vocabulary].
    """
    vocabulary_size, width = every.size, 8
    zero = ops.constant(0)

    def shape(*sizes: int) -> Any:
        return ops.constant(np.array(sizes, dtype=np.int64))

    def parameter(name: str, rank: int, kind: Any) -> Any:
        node = ops.parameter([-1] * rank, kind, name=name)
        node.output(0).set_names({name})
        return node

    ids = parameter("input_ids", 2, np.int64)
    mask = parameter("attention_mask", 2, np.int64)
    positions = parameter("position_ids", 2, np.int64)
    beams = parameter("beam_idx", 1, np.int32)
    weights = ops.constant(np.zeros((vocabulary_size, width), np.float32))
    # Positions count for nothing, but an input that nothing uses would be dropped.
    nothing = ops.convert(ops.multiply(positions, ops.constant(np.int64(0))), np.float32)
    hidden = ops.add(ops.gather(weights, ids, zero), ops.unsqueeze(nothing, shape(2)))
    heads = ops.unsqueeze(hidden, shape(1))
    batch = ops.gather(ops.shape_of(ids), shape(0), zero)
    empty_shape = ops.concat([batch, shape(1), shape(0), shape(width)], 0)
    sinks = []

    def cached(name: str) -> Any:
        info = ov.op.util.VariableInfo()
        info.data_shape = ov.PartialShape([-1, 1, -1, width])
        info.data_type = ov.Type.f32
        info.variable_id = name
        variable = ov.op.util.Variable(info)
        empty = ops.broadcast(ops.constant(np.float32(0)), empty_shape)
        past = ops.gather(ov.op.read_value(empty, variable), beams, zero)
        present = ops.concat([past, heads], 2)
        sinks.append(ov.op.assign(present, variable))
        return present

    keys = cached("past_key_values.0.keypresent.0.key")
    values = cached("past_key_values.0.valuepresent.0.value")
    visible = ops.unsqueeze(ops.unsqueeze(ops.convert(mask, np.float32), shape(1)), shape(1))
    bias = ops.multiply(ops.subtract(visible, ops.constant(np.float32(1))), np.float32(1e9))
    attended = ops.scaled_dot_product_attention(heads, keys, values, bias)
    logits = ops.matmul(
        ops.squeeze(attended, shape(1)), weights, transpose_a=False, transpose_b=True
    )
    result = ops.result(ops.add(logits, ops.constant(every)))
    result.output(0).set_names({"logits"})
    return ov.Model([result], sinks, [ids, mask, positions, beams], "trial")


def main() -> None:
    """Runs as a process; see the module."""
    path, vocabulary_size, stop_id = sys.argv[1:]

    def load() -> Tries:
        trial = Trial(ov_genai.Tokenizer(path), int(vocabulary_size), int(stop_id))
        # What the first form alone costs is not to be counted as that form's.
        trial.walk_fault(Guide(Ability.GUIDED_JSON_OBJECT))
        threading.stack_size(STACK_BYTES)
        _limit_memory()

        def apart(fault_of: FaultOf) -> FaultOf:
            """Returns the same on a thread of its own, with the stack that it shall fit."""

            def fault(guide: Guide) -> str | None:
                faults: list[str | None] = []
                thread = threading.Thread(target=lambda: faults.append(fault_of(guide)))
                thread.start()
                thread.join()
                return faults[0]

            return fault

        return Tries(apart(trial.fault), apart(trial.walk_fault))

    answer(load)


def _limit_memory() -> None:
    with suppress(ImportError):  # Windows has no such limit
        import resource  # noqa: PLC0415

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
