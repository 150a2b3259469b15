"""recipe -> TRL -> checkpoint, for pairs of one's own. Knows checkpoints and weights, nothing of search.

recipe.py      one run, as a TOML file states it
algorithms.py  what is known of each algorithm; losses.py, the losses that TRL lacks
data.py        records, checked, counted, in order; models.py, theta0, checked; plan.py, what a run would take
trainers.py    TRL's trainers as a recipe wants them; watching.py, what happens between two steps
run.py         a run from recipe to models; folder.py, what lies in its folder; keeping.py, how a model gets there
together.py    several processes, of which none waits for one that has failed
"""
