"""Faults made on purpose: bad input, kills, altered files, hostile folders.

`python -m tests.faults --seed 1 --minutes 20 --out runs/faults` runs the whole
campaign; `test_faults.py` runs a short sample of it.
"""
