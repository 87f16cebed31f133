"""Quality at equal size: methods × tasks × budgets × seeds; see `__main__`."""
