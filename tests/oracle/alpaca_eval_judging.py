"""Run by the oracle's interpreter: which outputs the official annotator switches, and what answers count to it.

Standard input: {"instructions": [...], "likeliest": [{token: log-probability}]}; standard output: the same keys with a
list of booleans, and one of preferences.
"""

import json
import sys

import pandas as pd
from alpaca_eval import completion_parsers
from alpaca_eval.annotators import PairwiseAnnotator

given = json.load(sys.stdin)
annotator = PairwiseAnnotator(annotators_config="weighted_alpaca_eval_gpt4_turbo")
[single] = annotator.annotators.values()
[switch] = [each for each in single.processors if type(each).__name__ == "RandomSwitchTwoColumnsProcessor"]
table = pd.DataFrame({"instruction": given["instructions"], "output_1": "1", "output_2": "2"})
switched = switch.preprocess(table)["is_switched_outputs"]
preferences = []
for likeliest in given["likeliest"]:
    top = [{"token": token, "logprob": value} for token, value in likeliest.items()]
    completion = {"logprobs": {"content": [{"top_logprobs": top}]}, "text": "m"}
    preferences += completion_parsers.logprob_parser(
        completion, numerator_token="m", denominator_tokens=["m", "M"], is_binarize=False
    )
print(json.dumps({"instructions": [bool(each) for each in switched], "likeliest": preferences}))
