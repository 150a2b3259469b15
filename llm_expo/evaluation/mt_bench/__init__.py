"""MT-Bench (arXiv 2306.05685): 80 questions of two turns, each answer graded by itself from 1 to 10 by a judge.

questions.py   the questions, and how a model is sampled on each category
answers.py     what models answered, in FastChat's own file format; reference answers too
judge.py       what the judge is asked, in FastChat's words, and the rating in what it says
judgements.py  judgements, in FastChat's own file format
scores.py      scores by turn and category, and models beside each other
words.py       all of it in words
run.py         from models to judgements, each kept as it comes

FastChat (lm-sys/FastChat, fastchat/llm_judge) is the original: what is asked and how it is read are as there.
Questions, reference answers and the judge's prompts are the user's files; none of them comes with this project.
"""
