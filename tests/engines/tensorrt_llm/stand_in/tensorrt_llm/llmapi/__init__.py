from tensorrt_llm._classes import *  # noqa: F403
from tensorrt_llm._results import CompletionOutput, RequestOutput  # noqa: F401
