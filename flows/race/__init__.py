"""The filter race: recipes against each other, by what one small model learns from each."""
