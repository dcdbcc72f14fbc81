"""What a recipe will do: rows, steps, time, memory and downloads."""
