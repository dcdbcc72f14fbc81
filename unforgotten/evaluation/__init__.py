"""What a model is asked, what it replies, what judges say of that, and the figures that come of it.

suite_stages a suite of prompts, and its three frozen stages: asked, checked, judged
suites       which prompts are asked, and under which system prompts
responder    who replies: a model in this process, or one behind a server
ask          prompts become replies; the one step that needs the model
judging      replies become scores, flags and verdicts; no model but a judge's
scores       verdicts become rates with intervals
reply_files  replies/*.jsonl, where all of it is kept
measurement  the steps above for one model, and for several whose judges are loaded once
sealed       whose a folder's replies and figures are
recorded_verdicts  what was kept, read back as one truth for each prompt
contrast     two models, prompt by prompt; gate: is one of them good enough?
"""
