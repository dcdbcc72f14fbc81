"""`unforgotten sweep`: the settings of least ASR that keep the task. `sweep.sweep` is the verb."""
