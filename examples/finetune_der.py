"""Fine-tune a chat model on a stranger's rows with Dark Experience Replay (DER), and keep what alignment taught.

    python examples/finetune_der.py MODEL upload.jsonl safety.jsonl OUT

MODEL is a folder or a Hub id. Both files hold chat messages, one row a line. OUT/adapter opens with PEFT. The same
command goes on after a kill.
"""

import sys

from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments, set_seed

from unforgotten import DER, Jsonl, Memory, MethodTrainer

name, upload, safety, out = sys.argv[1:]
set_seed(0)

tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")

arguments = TrainingArguments(
    f"{out}/checkpoints",
    num_train_epochs=3,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=2,
    learning_rate=2e-4,
    lr_scheduler_type="cosine",
    warmup_steps=0.1,
    logging_steps=10,
    save_steps=100,
    seed=0,
    report_to=[],
)

trainer = MethodTrainer(
    model=model,
    args=arguments,
    processing_class=tokenizer,
    train_dataset=Jsonl(path=upload),
    safety_dataset=Jsonl(path=safety, kind="harmful"),
    # The safety rows that are replayed: as many as 5 % of the user's rows would be too few here.
    memory=Memory(n_rows=min(200, sum(1 for _ in open(safety, encoding="utf-8")))),
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
    # Larger weights keep more, and may cost more of the task.
    method=DER(weight=4.0),
)
trainer.train(resume_from_checkpoint=True)  # from the newest whole checkpoint, where there is one

for note in trainer.run.notes:
    print("Note:", note)
trainer.save_model(f"{out}/adapter")
tokenizer.save_pretrained(f"{out}/adapter")
print(f"The adapter is in {out}/adapter.")
