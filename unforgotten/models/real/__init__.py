"""Two small real language models, converted here from packages on PyPI: `model: smollm2` and `model: gemma3`."""
