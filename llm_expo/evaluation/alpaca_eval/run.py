"""AlpacaEval 2.0 from models to figures: outputs, judgements, comparison. Each is kept in the folder as it comes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from llm_expo.evaluation.alpaca_eval.annotations import Annotations, write_annotations
from llm_expo.evaluation.alpaca_eval.judge import Template, annotate
from llm_expo.evaluation.alpaca_eval.outputs import Outputs, read_outputs, write_outputs
from llm_expo.evaluation.models import Model
from llm_expo.evaluation.replies import Watch, kept_replies
from llm_expo.generation import Engine, Prompt
from llm_expo.scoring.endpoint import Endpoint


def make_outputs(
    models: Sequence[Model],
    baseline: Outputs,
    opened: Callable[[Model], AbstractContextManager[Engine]],
    out: Path,
    batch_size: int,
    watch: Watch,
) -> dict[Path, Outputs]:
    """What each model answers to the baseline's instructions, by the file that holds it.

    That is the model's own where it was made elsewhere, else OUT/NAME/outputs.json.

    Raises what reading, the engine and `kept_replies` raise.
    """
    found = {}
    prompts = [Prompt(str(place), ({"role": "user", "content": each},)) for place, each in enumerate(baseline.texts)]
    for model in models:
        if model.is_file:
            path, outputs = Path(model.place), read_outputs(Path(model.place))
        else:
            path, told = out / model.name / "outputs.json", _of(model, watch)
            with opened(model) as engine:
                replies = kept_replies(out / model.name / "replies.jsonl", engine, prompts, batch_size, told)
            texts = {prompt.messages[0]["content"]: replies[prompt.id].text for prompt in prompts}
            outputs = Outputs(str(path), model.name, texts, baseline.datasets)
            write_outputs(path, outputs)
        found[path] = outputs
    return found


def judge_outputs(
    models: Sequence[Model],
    outputs: Sequence[Outputs],
    baseline: Outputs,
    endpoint: Endpoint,
    template: Template,
    out: Path,
    watch: Watch,
) -> list[Annotations]:
    """Judgements of each model's outputs, written to OUT/NAME/annotations.json too.

    Raises as `annotate`; what was judged so far is kept by the endpoint.
    """
    out.mkdir(parents=True, exist_ok=True)  # for the judge's answers
    found = []
    for model, each in zip(models, outputs, strict=True):
        progress = partial(_of(model, watch), "judgements")
        annotations = replace(annotate(each, baseline, endpoint, template, progress), model=model.name)
        write_annotations(out / model.name / "annotations.json", annotations)
        found.append(annotations)
    return found


def _of(model: Model, watch: Watch) -> Watch:
    return lambda what, done, of: watch(f"{model.name}: {what}", done, of)
