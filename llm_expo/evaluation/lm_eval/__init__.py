"""The alignment tax: what a gain in preference costs on benchmarks, here the Open LLM Leaderboard's six tasks.

tasks.py    which tasks are asked for, with how many shots
harness.py  lm-evaluation-harness itself: tasks, and putting one to a model
on_vllm.py  its model on vLLM, in a process of its own (vllm_child.py)
kept.py     what it made of a model, in files
run.py      models times tasks, each finished pair kept
results.py  result files, lm-evaluation-harness's own or collected ones
tax.py      a model minus its reference, task by task, with significance
paired.py   the same from the items themselves
words.py    all of it in words
"""
