"""Which formats a model's files choose, and which a setting does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenwire_frontend.core.parsers import (
    REASONING_FORMATS,
    TOOL_FORMATS,
    OutputFormat,
    OutputParser,
    choose,
    reasoning_format,
    tool_format,
)

from tests.frontend.parsers.reading import TOOLS, feed, put_together

DEMO = Path(__file__).parents[3] / "models/demo/chat_template.jinja"

TEMPLATES = {
    # name: (template, added tokens, model type, tools, reasoning)
    "none": (None, [], None, None, None),
    "plain": ("{{ messages[0].content }}", [], None, None, None),
    "demo": (DEMO.read_text(), [], "llama", "json", "think"),
    "hermes": ("<tool_call>{{ {'name': name} }}</tool_call>", [], "qwen2", "hermes", None),
    "hermes that thinks": ("<tool_call>{{ c.split('</think>') }}", [], "qwen3", "hermes", "think"),
    "tokens alone": ("{{ messages }}", ["<tool_call>", "<think>", "</think>"], None, None, "think"),
    "xml": ("<tool_call>\n<function=' + name + '>", [], None, "qwen3_coder", None),
    "glm": ("<tool_call>{{ name }}<arg_key>", [], None, "glm45", None),
    "deepseek": ("tool\u2581call\u2581begin{{ name }}", [], None, "deepseek_v31", None),
    "deepseek without a template": (None, [], "deepseek_v32", "deepseek_v32", "think"),
    "gpt-oss without a template": (None, [], "gpt_oss", "harmony", "harmony"),
    "gpt-oss": ("<|channel|>analysis<|message|>", [], None, "harmony", "harmony"),
    "mistral": ("[TOOL_CALLS]{{ c }} [THINK]", [], "mistral", "mistral", "mistral"),
    "llama": ("<|python_tag|>{{ c }}", [], "llama", "llama3_json", None),
}  # fmt: skip


@pytest.mark.parametrize("case", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_models_files_choose(case):
    template, tokens, model_type, *expected = case
    assert choose(template, tokens, {}, model_type) == tuple(expected)


NONE = (None, None)
REAL = {
    "llama__Apertus-8B-Instruct": NONE,
    "llama__Bielik-11B-v3.0-Instruct": ("hermes", "think"),
    "llama__Cohere2MoE": ("cohere", "cohere"),
    "llama__CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("cohere", "cohere"),
    "llama__GLM-4.7-Flash": ("glm45", "think"),
    "llama__GigaChat3.1-10B-A1.8B": ("gigachat", None),
    "llama__Kimi-K2-Instruct": ("kimi_k2", None),
    "llama__Kimi-K3": NONE,
    "llama__LFM2.5-8B-A1B": ("lfm2", "think"),
    "llama__MiMo-VL": ("hermes", None),
    "llama__MiniMax-M2": ("minimax_m2", "think"),
    "llama__Mistral-Small-3.2-24B-Instruct-2506": ("mistral", None),
    "llama__NVIDIA-Nemotron-Nano-v2": ("nemotron", "think"),
    "llama__NousResearch-Hermes-3-Llama-3.1-8B-tool_use": ("hermes", None),
    "llama__Qwen-Qwen2.5-7B-Instruct": ("hermes", None),
    "llama__Qwen3-Coder": ("qwen3_coder", None),
    "llama__Reka-Edge": ("hermes", "think"),
    "llama__StepFun3.5-Flash": ("qwen3_coder", "think"),
    "llama__deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("deepseek_v3", "think"),
    "llama__deepseek-ai-DeepSeek-V3.2": ("deepseek_v32", "think"),
    "llama__deepseek-ai-DeepSeek-V4": ("deepseek_v32", "think"),
    "llama__google-gemma-2-2b-it": NONE,
    "llama__google-gemma-4-31B-it": (None, "gemma4"),
    "llama__ibm-granite-granite-4.0": ("hermes", None),
    "llama__inclusionai-ling-3.0-flash": ("glm45", "think"),
    "llama__llama-cpp-rwkv-world": (None, "think"),
    "llama__meetkai-functionary-medium-v3.2": NONE,
    "llama__meta-llama-Llama-3.2-3B-Instruct": ("llama3_json", None),
    "llama__microsoft-Phi-3.5-mini-instruct": NONE,
    "llama__mistralai-Mistral-Nemo-Instruct-2407": ("mistral", None),
    "llama__muse-glimmer": NONE,
    "llama__openbmb-MiniCPM5-1B": (None, "think"),
    "llama__poolside-Laguna-XS-2.1": ("glm45", "think"),
    "llama__tencent-Hy3": NONE,
    "llama__unsloth-mistral-Devstral-Small-2507": ("mistral", None),
    "vllm__pooling__embed__template__dse_qwen2_vl": NONE,
    "vllm__pooling__embed__template__vlm2vec_phi3v": NONE,
    "vllm__pooling__score__template__bge-reranker-v2-gemma": NONE,
    "vllm__pooling__score__template__nemotron-rerank": NONE,
    "vllm__pooling__score__template__qwen3_reranker": (None, "think"),
    "vllm__pooling__score__template__zerank2": NONE,
    "vllm__template_chatglm": NONE,
    "vllm__template_chatml": NONE,
    "vllm__template_falcon_180b": NONE,
    "vllm__template_teleflm": NONE,
    "vllm__tool_chat_template_deepseekr1": ("deepseek_v3", "think"),
    "vllm__tool_chat_template_deepseekv31": ("deepseek_v31", "think"),
    "vllm__tool_chat_template_gemma3_pythonic": ("pythonic", None),
    "vllm__tool_chat_template_glm4": ("glm45", None),
    "vllm__tool_chat_template_granite_20b_fc": ("granite_20b", None),
    "vllm__tool_chat_template_hunyuan_a13b": ("hunyuan", "think"),
    "vllm__tool_chat_template_llama3.1_json": ("llama3_json", None),
    "vllm__tool_chat_template_llama3.2_pythonic": ("pythonic", None),
    "vllm__tool_chat_template_llama4_pythonic": ("pythonic", None),
    "vllm__tool_chat_template_mistral3": ("mistral", None),
    "vllm__tool_chat_template_muse_glimmer": NONE,
    "vllm__tool_chat_template_qwen3coder": ("qwen3_coder", None),
    "vllm__tool_chat_template_xlam_llama": ("json", None),
    "vllm__vllm-transformers_utils__chat_templates__template_basic": NONE,
    "vllm__vllm-transformers_utils__chat_templates__template_chatml": NONE,
    "vllm__vllm-transformers_utils__chat_templates__template_deepseek_vl2": NONE,
    "vllm__vllm-transformers_utils__chat_templates__template_minicpmv45": ("hermes", "think"),
}
"""What real models write, by the names of their templates in a folder that the environment names.
Formats that are not supported are None."""


@pytest.mark.skipif("TOKENWIRE_TEST_TEMPLATES" not in os.environ, reason="no folder of templates")
def test_real_templates_choose():
    folder = Path(os.environ["TOKENWIRE_TEST_TEMPLATES"]) / "templates"
    chosen = {each.stem: choose(each.read_text(), [], {}) for each in folder.glob("*.jinja")}
    assert chosen == REAL


JSON_ITEMS = {"x-parser": "json", "type": "object"}
SCHEMA = {
    "response_schema": {
        "type": "object",
        "x-regex": r"^(?:<muse>\n?(?P<thinking>.*?)\n?</muse>\s*)?(?P<content>.*?)$",
        "properties": {
            "role": {"const": "assistant"},
            "content": {"type": "string"},
            "thinking": {"type": "string"},
            "tool_calls": {
                "type": "array",
                "x-regex-iterator": r"<\|use\|>\s*(.*?)\s*<\|/use\|>",
                "items": JSON_ITEMS,
            },
        },
    }
}


def test_markers_that_only_the_response_schema_knows_are_taken_from_it():
    assert choose("{{ messages }}", [], SCHEMA) == ("response_schema", "response_schema")
    output_format = OutputFormat(
        tool_format("auto", "response_schema", SCHEMA),
        reasoning_format("auto", "response_schema", SCHEMA),
        {},
    )
    raw = '<muse>\nHm\n</muse>\nOk.\n<|use|>{"name": "now", "arguments": {"a": 1}}<|/use|>'
    found = put_together(feed(OutputParser(output_format, str, TOOLS), [*raw]))
    assert (found.text, found.reasoning) == ("Ok.", "Hm")
    assert [(each.name, each.arguments) for each in found.calls] == [("now", '{"a": 1}')]


def test_a_response_schema_whose_markers_are_known_chooses_that_format():
    calls = {"x-regex-iterator": r"\[TOOL_CALLS\](.*)", "items": {"x-parser": "json"}}
    config = {"response_schema": {"properties": {"tool_calls": calls}}}
    assert choose("{{ messages }}", [], config) == ("mistral", None)


@pytest.mark.parametrize(
    "schema",
    [
        None, 7, {}, {"properties": 1}, {"properties": {"tool_calls": 1}},
        {"properties": {"tool_calls": {"x-regex-iterator": "<a>(.*)</a>"}}},
        {"properties": {"tool_calls": {"x-regex-iterator": "(a+)+", "items": JSON_ITEMS}}},
        {"x-regex": "(?P<thinking>.*)", "properties": {"thinking": {"x-regex": 5}}},
        {"x-regex": "\\" * 3000 + "(?P<thinking>" + "(" * 500},
    ],
)  # fmt: skip
def test_a_response_schema_of_another_shape_gives_no_format(schema):
    assert choose(None, [], {"response_schema": schema}) == NONE
    with pytest.raises(ValueError, match="describes nothing"):
        tool_format("response_schema", None, {"response_schema": schema})


def test_a_setting_names_a_format_or_the_model_does_or_nothing():
    assert tool_format("glm45", "hermes", {}) is TOOL_FORMATS["glm45"]
    assert tool_format("auto", "hermes", {}) is TOOL_FORMATS["hermes"]
    assert tool_format("auto", None, {}) is None
    assert tool_format("off", "hermes", {}) is None
    assert reasoning_format("auto", "think", {}) is REASONING_FORMATS["think"]
    assert reasoning_format("off", "think", {}) is None
    with pytest.raises(ValueError, match="'gpt' is not supported; names are cohere, deepseek_v3, "):
        tool_format("gpt", None, {})
    with pytest.raises(ValueError, match="names are cohere, gemma4, harmony, mistral, seed, think"):
        reasoning_format("gpt", None, {})
