"""The vLLM engine: AsyncLLM of vLLM 0.26, whose engine runs in a process of its own.

`adapter` is the engine module; with what it imports it alone imports vllm.
"""
