from tensorrt_llm._results import IterationResult  # noqa: F401
