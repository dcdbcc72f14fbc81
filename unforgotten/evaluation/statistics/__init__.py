"""The statistics of safety: rates, differences, judges' agreement, each with its interval. Pure Python, no torch.

rates       a suite, a mean of suites          agreement   two judges on the same replies
paired      two models on the same prompts     prevalence  the harmful share of an upload, by a judge that errs
seeds       several seeds of either            power       the smallest difference that n prompts can show
"""
