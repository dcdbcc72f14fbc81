"""What a person reads: terminal, Markdown, page and model card. It computes nothing that evaluation has not."""
