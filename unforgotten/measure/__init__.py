"""What a model is asked, what it replies, what judges say of that, and the figures that come of it.

suites    the prompts, and under which system prompts they are asked
ask       prompts become replies; the one step that needs the model
read      replies become verdicts, scores and flags; no model but the judge's
figures   verdicts become rates with intervals
lines     replies/*.jsonl, where all of it is kept
"""
