"""What runs within the sandbox. It imports nothing of ours."""
