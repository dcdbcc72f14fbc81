"""What an audit shows a judge, and how it says what it judged.

spoken      what the assistant says in a row: as the loss sees it, or every word that a template could print
exchanges   each answer after its conversation, and the conversation as a whole
judged      each exchange once, in windows where it is too long; the worst verdict of a row
readings    the same words without invisible characters
record      digests of what was judged; `finetune --audited` holds a run to them
"""
