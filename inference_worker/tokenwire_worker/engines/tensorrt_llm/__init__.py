"""The TensorRT-LLM engine: tensorrt_llm.LLM on its PyTorch backend, 1.2.

`adapter` is the engine module; it alone imports tensorrt_llm. The package cannot be installed where
this project is tested, so what the adapter relies on is written down in `surface.json`: the tests
build strict stand-ins from it, pass-through settings are checked against it, and
`tokenwire-worker check-engine` compares it with the package that is installed.
"""
