"""Holds the demo to its promise, from its report: a confirmed gain and a model that loads; tells the seconds it took.

python .ci/judge_demo.py demo-run/study/report.json
"""

import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    report = json.loads(Path(sys.argv[1]).read_text())
    seconds = sum(cost["seconds"] for cost in report["costs"].values())
    gain = report["decision"]["gain"]
    print(f"verdict {report['verdict']}, alpha {report['choice']}, gain {gain}, {seconds:.0f} s of search")
    _, info = AutoModelForCausalLM.from_pretrained(report["model"], output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(report["model"])
    for holds, wanted in (
        (report["verdict"] == "SHIP", "the verdict SHIP"),
        (not any(info.values()), "a model that loads without missing or unexpected weights"),
        (bool(tokenizer.chat_template), "a tokenizer with its chat template"),
    ):
        if not holds:
            sys.exit(f"the demo lacks {wanted}")


if __name__ == "__main__":
    main()
