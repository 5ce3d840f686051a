from tensorrt_llm._classes import LoraConfig  # noqa: F401
