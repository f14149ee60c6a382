"""danlu (丹炉): one stack that runs large models on unequal, few and failing cards."""

__version__ = "0.1.0"
