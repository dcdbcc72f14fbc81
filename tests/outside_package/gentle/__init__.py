"""A method and a judge for unforgotten, in a package of its own."""
