"""The vLLM engine on a GPU: contract suite, demo model, and what the two services cost."""
