"""The one thing of transformers that the guide trial asks for."""


class AutoTokenizer:
    @staticmethod
    def from_pretrained(model):
        print("a library that prints to standard output")
        return model
