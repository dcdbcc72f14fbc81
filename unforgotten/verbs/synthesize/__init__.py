"""Safety data from θ_safe itself: requests drawn, filtered and answered. `synthesize.synthesize` is the verb."""
