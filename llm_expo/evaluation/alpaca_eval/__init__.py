"""AlpacaEval 2.0 (arXiv 2404.04475): how often a judge prefers a model's output to a baseline's, by instruction.

outputs.py         what models answered, in AlpacaEval's own file format
judge.py           which of two outputs is better, by a model behind an endpoint
annotations.py     judgements, in AlpacaEval's own file format
companion.py       what the full length-controlled win rate needs beside them
win_rate.py        the leaderboard's plain figures
length_control.py  the length-controlled win rate
comparison.py      models beside each other on the same instructions
words.py           all of it in words
"""
