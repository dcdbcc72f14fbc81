"""What comparisons of a method prove, from one small file without replies and prompts.

recorded     the file: of each run its figures, its verdict on each prompt as one letter, and how it was made
collect      comparison folders into such a file
studies      the runs of one model and task, by what they are called
goal         non-inferiority: as safe as θ_safe and as useful as plain fine-tuning, with one-sided paired bounds
parts        what each part of a method adds, paired by seed; and what units of drift tell of the ASR
figure       ASR, refusals and utility over the poison ratio
page         all of it as Markdown
"""
