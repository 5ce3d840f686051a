"""The OpenVINO engine: openvino_genai.ContinuousBatchingPipeline, 2026.4, the default on CPUs.

`adapter` is the engine module and `engine` the engine, whose `process` steps the pipeline.
"""
