"""Balance and selection: one seeded sampling plan over the rows that verdicts keep."""
