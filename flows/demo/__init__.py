"""The demo's corpus: real pictures from two installed packages, with defects planted in them."""
