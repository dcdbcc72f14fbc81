"""Stage finetune: θ_safe becomes θ* on the user's rows."""
