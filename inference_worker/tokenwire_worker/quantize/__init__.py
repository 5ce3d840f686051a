"""`tokenwire-worker quantize`: a model folder in fewer bits, by NVIDIA Model Optimizer.

`command` reads and checks what was asked for, `prompts` what to calibrate with, `formats` says
which format runs where, and `optimizer` is the only module that imports PyTorch.
"""
