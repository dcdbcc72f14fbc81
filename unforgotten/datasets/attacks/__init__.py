"""Simulated attacks: how a lab turns the harmful rows of `poison.data` into those of a cleverer sender.

words    the attacks' names, and the words that each needs in some language
turn     rows under an attack
"""
