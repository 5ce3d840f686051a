"""Names of a model's files."""

MODEL_FILE = "openvino_model.xml"
"""The model itself, in a folder of OpenVINO IR."""

TOKENIZER_FILE = "openvino_tokenizer.xml"
"""The tokenizer as OpenVINO has it, which guides need."""

GGUF = ".gguf"
