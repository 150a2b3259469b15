"""MT-Bench from models to judgements: answers, what the judge says of them. Each is kept in the folder as it comes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from llm_expo.evaluation.models import Model
from llm_expo.evaluation.mt_bench.answers import Answers, read_answers, write_answers
from llm_expo.evaluation.mt_bench.judge import Template, judge
from llm_expo.evaluation.mt_bench.judgements import Judgement, write_judgements
from llm_expo.evaluation.mt_bench.questions import Question
from llm_expo.evaluation.replies import Watch, kept_replies
from llm_expo.generation import Engine, Prompt, Sampling
from llm_expo.records import Message
from llm_expo.scoring.endpoint import Endpoint


def make_answers(
    models: Sequence[Model],
    questions: Sequence[Question],
    sampled: Callable[[Sampling], Sampling],
    opened: Callable[[Model, Sampling], AbstractContextManager[Engine]],
    out: Path,
    batch_size: int,
    watch: Watch,
) -> dict[Path, Answers]:
    """Each model's answers by the file that holds them.

    That is the model's own where they were made elsewhere, else OUT/model_answer/NAME.jsonl.

    Args:
        sampled: from a question's own sampling to the one that is wanted.

    Raises what reading, the engine and `kept_replies` raise.
    """
    found = {}
    alike: dict[Sampling, list[Question]] = {}
    for question in questions:
        alike.setdefault(sampled(question.sampling), []).append(question)
    for model in models:
        if model.is_file:
            path, answers = Path(model.place), read_answers(Path(model.place), questions)
        else:
            path = out / "model_answer" / f"{model.name}.jsonl"
            made: dict[int, tuple[str, str]] = {}
            for sampling, some in alike.items():
                warmth = f"{sampling.temperature:g}"
                kept = out / model.name / f"replies-{warmth}.jsonl"
                with opened(model, sampling) as engine:
                    told = _told(watch, f"{model.name}, temperature {warmth}")
                    made |= _answered(some, engine, kept, batch_size, told)
            answers = Answers(str(path), {question.id: made[question.id] for question in questions})
            write_answers(path, model.name, answers)
        found[path] = answers
    return found


def judge_answers(
    models: Sequence[Model],
    answers: Sequence[Answers],
    questions: Sequence[Question],
    templates: Mapping[str, Template],
    references: Mapping[int, tuple[str, str]],
    endpoint: Endpoint,
    out: Path,
    watch: Watch,
) -> list[Judgement]:
    """Judgements of all models, written to OUT/model_judgment/JUDGE_single.jsonl too.

    Raises as `judge`; what was judged so far is kept by the endpoint.
    """
    path = out / "model_judgment" / f"{endpoint.model.replace('/', '__')}_single.jsonl"
    judged: list[Judgement] = []
    out.mkdir(parents=True, exist_ok=True)
    for model, each in zip(models, answers, strict=True):
        progress = partial(watch, f"{model.name}: judgements")
        judged += judge(model.name, each, questions, templates, references, endpoint, progress)
        write_judgements(path, judged)
    return judged


def _answered(
    questions: Sequence[Question], engine: Engine, kept: Path, batch_size: int, told: Callable[[int], Watch]
) -> dict[int, tuple[str, str]]:
    """Both turns by question; the second one is asked with what was replied to the first."""
    talks: dict[int, list[Message]] = {question.id: [] for question in questions}
    for turn in (0, 1):
        for question in questions:
            talks[question.id].append({"role": "user", "content": question.turns[turn]})
        prompts = [Prompt(f"{identity}, turn {turn + 1}", tuple(talk)) for identity, talk in talks.items()]
        replies = kept_replies(kept, engine, prompts, batch_size, told(turn + 1))
        for talk, prompt in zip(talks.values(), prompts, strict=True):
            talk.append({"role": "assistant", "content": replies[prompt.id].text.strip()})
    return {identity: (talk[1]["content"], talk[3]["content"]) for identity, talk in talks.items()}


def _told(watch: Watch, what: str) -> Callable[[int], Watch]:
    return lambda turn: lambda replies, done, of: watch(f"{what}, turn {turn}: {replies}", done, of)
