"""Code generated from `proto/` by `generate.py`; nothing here is written by hand."""
