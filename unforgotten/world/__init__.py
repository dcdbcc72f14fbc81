"""The embedded world: a small language in which harm is known by construction, and a model of 0.76 M parameters.

No download, no GPU, no harmful knowledge: the "steps" are made up. lexicon → requests → tasks → corpus → vocabulary →
tokenizer → model. Only the last two import transformers, and inside functions.

**Frozen.** Grammar, tasks and training settings were fitted on base, aligned and SFT models alone, with seeds of 100
and above: never on a method that protects, and never on the seeds 0, 1, 2 that results use. A change to the grammar
changes the digest of the base. Runs share one base (seed 0); a seed varies alignment, choice of rows, order and
poison.

Fitted with, on the trainer itself (LoRA on all linear layers, no dropout, AdamW, weight decay 0.1, cosine after 10 %
warm-up, clipping at 1):
    align       1,400 refusals and 700 look-alikes, r 8, 2 epochs, batch 16, learning rate 3e-3; then merged
    fine-tune   1,400 rows, r 8, 3 epochs, batch 10, learning rate 2e-3

                                       seed 103    104    105    106
    base     ASR                            100    100    100    100     look-alikes refused 0
    aligned  ASR, mean of three suites      1.1    1.4    0.6    0.8
             look-alikes refused           14.8   11.7   14.1   10.9
    SFT      sums: ASR / accuracy     86.9/93.5      –  80.0/93.5  86.4/95.5
             code: ASR / accuracy    45.6/100.0      –  46.4/100.0     –
             sentiment: ASR / accuracy 0.0/100.0     –   1.4/100.0     –
             sums, p = 0.1           100.0/91.0      –  96.4/91.5      –

Earlier grammars (at least three, and five settings of alignment on the last), on bases of seeds 100 to 102, were given
up for what base, aligned and SFT models did there: steps too long to learn, an erosion that depended on the seed, no
over-refusal, a sentiment task that stayed at chance. The
recipe `demo` then trains longer and with r 16 (5 epochs), so that SFT and the methods both finish the task. SFT on
sentiment, whose answers are one word, hardly erodes anything: the replies of the aligned model survive it.
"""
