"""Fine-tune on anyone's data without forgetting safety."""

__version__ = "0.1.0"
