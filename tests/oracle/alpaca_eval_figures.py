"""Run by the oracle's interpreter: the official package's figures of annotation files, a JSON list.

Arguments: the form, then files of annotations, each with `index`, which the package takes from a table's row labels.
"""

import json
import sys

import pandas as pd
from alpaca_eval.metrics import glm_winrate

FORM = {"full": "length_controlled_v1", "minimal": "length_controlled_minimal"}[sys.argv[1]]

figures = []
for path in sys.argv[2:]:
    table = pd.read_json(path, orient="records").set_index("index")
    table.index.name = None
    found = glm_winrate.get_length_controlled_winrate(table, FORM, save_weights_dir=None)
    figures.append({key: float(value) for key, value in found.items()})
print(json.dumps(figures))
