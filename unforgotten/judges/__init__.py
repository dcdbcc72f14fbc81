"""One judge, one file: verdicts on replies."""
