"""Views of a run for people: tables in the terminal, plots and a page. Reads plain values, never a live model."""
