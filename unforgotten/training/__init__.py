"""The only room that knows the Trainer, ranks and shards."""

import logging

# bitsandbytes, where it is installed, is imported by peft and tells on CPUs of a kernel that it does without.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
