"""`unforgotten sweep`: the settings of lowest ASR at preserved task accuracy. `sweep.sweep` is the verb."""
