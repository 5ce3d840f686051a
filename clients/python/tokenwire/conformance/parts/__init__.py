"""The checks: one module for each part of docs/contract.md, whose `RULES` are in its order."""
