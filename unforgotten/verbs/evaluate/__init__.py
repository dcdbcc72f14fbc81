"""Stage evaluate, file by file.

evaluate  the verb: all are asked, then all are judged
target    what a word on the command line names: a run, a recipe, a folder or a Hub id
run       the measurement of a trained run
stage     the measurement of θ₀ or θ_safe, or of a model that is nobody's run
asked     which model replies, and the settings that it is asked with
"""
