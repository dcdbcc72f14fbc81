"""Stage repair: finished models edited without training."""
