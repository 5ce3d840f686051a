"""The OpenVINO engine: openvino_genai.ContinuousBatchingPipeline, 2026.4, the default on CPUs.

`adapter` is the engine module; with what it imports it alone imports openvino_genai.
"""
