"""The alignment tax: what a gain in preference costs on benchmarks, here the Open LLM Leaderboard's six tasks.

results.py  result files, lm-evaluation-harness's own or collected ones
tax.py      a model minus its reference, task by task, with significance
words.py    both in words
"""
