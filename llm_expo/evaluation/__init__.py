"""The paper's yardsticks, a folder each: from outputs, judgements or results to figures with their standard errors.

alpaca_eval/   win rates against a baseline's outputs, plain and length-controlled; two models compared
mt_bench/      80 questions of two turns, each answer rated by a judge
lm_eval/       the alignment tax: six tasks of the Open LLM Leaderboard, before and after

Knows generation, scoring and stats; nothing of search.
"""
