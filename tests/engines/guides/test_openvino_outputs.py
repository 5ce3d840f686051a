"""What OpenVINO's compiler makes of the grammars: the outputs of a pipeline, drawn at random.

The model is that of the trial: every token that the guide allows is as likely as the others.
"""

from __future__ import annotations

import json
import random
import re
import sys

import jsonschema
import pytest
from tokenwire_worker.engines.guides.prepare import grammar_text
from tokenwire_worker.engines.port import Ability, FreePrefix, Guide
from tokenwire_worker.model_files import read_limits

from tests.engines.guides.outputs import Outputs
from tests.engines.guides.schemas import EVERYDAY
from tests.services.processes import MODEL

openvino_genai = pytest.importorskip("openvino_genai")


class Pipeline:
    """Generates with a guide."""

    def __init__(self) -> None:
        from tokenwire_worker.engines.openvino.trial import Trial

        limits = read_limits(MODEL, None)
        self._stop_id = limits.eos_token_ids[0]
        self._tokenizer = openvino_genai.Tokenizer(str(MODEL))
        trial = Trial(self._tokenizer, limits.vocabulary_size, self._stop_id)
        self._pipeline = trial._pipeline

    def generate(self, guide: Guide, seed: int, most: int = 120) -> tuple[str, bool]:
        """Returns an output, and whether it is finished."""
        import numpy as np
        import openvino as ov
        from tokenwire_worker.engines.openvino.config import structured_output

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = most
        config.stop_token_ids = {self._stop_id}
        config.eos_token_id = self._stop_id
        config.do_sample = True
        config.temperature = 1e3  # the model's own leanings count for nothing
        config.rng_seed = seed
        config.structured_output_config = structured_output(guide)
        result = self._pipeline.generate(ov.Tensor(np.zeros((1, 1), np.int64)), config)
        ids = [int(each) for each in result.tokens[0]]
        finished = len(ids) < most or ids[-1] == self._stop_id
        if ids and ids[-1] == self._stop_id:
            ids.pop()
        return self._tokenizer.decode(ids, skip_special_tokens=False), finished


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline()


# --- every literal of every form ------------------------------------------------------------------


def _chunks(size: int):
    """Yields texts of characters from all over Unicode, each before one that may be misread."""
    rng = random.Random(7)
    codes = [*range(1, 0x300), 0x37E, 0x3FF, 0x7FF, 0x800, 0xFFF, 0x1000, 0xCFFF, 0xD000, 0xD7FF]
    codes += [0xE000, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0x1F600, sys.maxunicode]
    codes += rng.sample(range(0x300, 0xD800), 150) + rng.sample(range(0x10000, 0x110000), 80)
    neighbours = '0123456789abcdefABCDEFg -]\\"^'
    for at in range(0, len(codes), size):
        yield "".join(chr(code) + rng.choice(neighbours) for code in codes[at : at + size])


LITERALS = {
    "choice": lambda text: Guide(Ability.GUIDED_CHOICE, options=(text,)),
    "regex": lambda text: Guide(Ability.GUIDED_REGEX, re.escape(text)),
    "set": lambda text: Guide(Ability.GUIDED_REGEX, "".join(f"[{re.escape(c)}]" for c in text)),
    "grammar": lambda text: Guide(
        Ability.GUIDED_GRAMMAR,
        f"root ::= {json.dumps(text, ensure_ascii=False)}".replace("\x7f", r"\x7f"),
    ),
    "enum": lambda text: Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps({"enum": [text]})),
    "property": lambda text: Guide(
        Ability.GUIDED_JSON_SCHEMA,
        json.dumps({"type": "object", "properties": {text: {"const": 1}}, "required": [text]}),
    ),
}


@pytest.mark.parametrize("form", LITERALS)
def test_literals_come_out_exactly(pipeline, form):
    for text in _chunks(120):
        output, finished = pipeline.generate(LITERALS[form](text), 1, 2000)
        assert finished
        if form == "enum":
            output = json.loads(output)
        elif form == "property":
            (output,) = json.loads(output)
        assert output == text


# --- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERYDAY)
def test_finished_outputs_are_valid(pipeline, name):
    guide = Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps(EVERYDAY[name]))
    outputs = Outputs(grammar_text(guide))
    for seed in range(6):
        text, finished = pipeline.generate(guide, seed)
        if finished:
            jsonschema.validate(json.loads(text), EVERYDAY[name])
            assert outputs.has(text)


@pytest.mark.parametrize(
    "pattern",
    [
        *("[^a]{2,5}", r"\w{1,3}@\w{1,3}\.com", "(a|b){0,50}c", r"\D\S\W", "[\x01-\x1fa-f]{4}"),
        *(
            "[\u0080-\u00ff0-9]{3,9}",
            "(?:é[0-9a-f]){2,4}",
            "[^é]{4}",
            "[가-힣a]{3}",
            r"^(ab|a){2,9}$",
        ),
    ],
)
def test_finished_outputs_match(pipeline, pattern):
    done = 0
    for seed in range(8):
        text, finished = pipeline.generate(Guide(Ability.GUIDED_REGEX, pattern), seed)
        if finished and "\ufffd" not in text:
            assert re.fullmatch(pattern, text), text
            done += 1
    assert done


def test_numbers_stay_between_bounds(pipeline):
    for schema in (
        *({"minimum": 0, "maximum": 1}, {"minimum": 1.5}, {"maximum": 2.5}),
        *({"exclusiveMinimum": 3, "maximum": 3.5}, {"exclusiveMaximum": -0.5, "minimum": -1}),
    ):
        guide = Guide(Ability.GUIDED_JSON_SCHEMA, json.dumps({"type": "number", **schema}))
        for seed in range(12):
            text, finished = pipeline.generate(guide, seed)
            assert finished
            jsonschema.validate(json.loads(text), schema)


def test_a_json_object_is_one(pipeline):
    for seed in range(6):
        text, finished = pipeline.generate(Guide(Ability.GUIDED_JSON_OBJECT), seed, 300)
        if finished:
            assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize("begin", ["", "{"])
def test_what_follows_a_free_prefix_is_held(pipeline, begin):
    free = FreePrefix(begin, "e")
    guide = Guide(Ability.GUIDED_REGEX, "[0-9]{2}", free_prefix=free)
    held = rf"[0-9]{{2}}|{begin and re.escape(begin)}[^e]*e\s{{0,8}}[0-9]{{2}}"
    texts = [pipeline.generate(guide, seed, 400) for seed in range(12)]
    finished = [text for text, is_finished in texts if is_finished]
    assert finished
    assert all(re.fullmatch(held, text) for text in finished)
