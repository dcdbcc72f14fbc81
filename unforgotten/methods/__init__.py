"""One paper, one file. base.py has the turns that a method may take."""
