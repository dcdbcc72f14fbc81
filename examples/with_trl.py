"""The same on TRL's SFTTrainer: a mixin, and three more arguments.

python examples/with_trl.py MODEL upload.jsonl safety.jsonl OUT
"""

import sys

import torch
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from unforgotten import DER, Jsonl, MethodMixin


class SafeSFTTrainer(MethodMixin, SFTTrainer):
    """SFTTrainer with methods that keep safety."""


name, upload, safety, out = sys.argv[1:]

trainer = SafeSFTTrainer(
    model=name,
    # TRL asks for bf16 by itself, which a processor may not have.
    args=SFTConfig(out, learning_rate=2e-4, logging_steps=10, bf16=torch.cuda.is_available(), report_to=[]),
    processing_class=AutoTokenizer.from_pretrained(name),
    train_dataset=Jsonl(path=upload),
    safety_dataset=Jsonl(path=safety, kind="harmful"),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    method=DER(weight=4.0),
)
trainer.train()
trainer.save_model(out)
print(f"The adapter is in {out}.")
