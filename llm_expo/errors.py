"""Every error that llm-expo raises on purpose, and how a long list goes into one line of it.

ExpoError                   one line for the user: what, where, both sides of a mismatch, the way out
├── CheckpointError         a folder or file that is not a readable checkpoint
│   └── MismatchError       two checkpoints that do not belong together (all mismatches at once)
├── OutputError             the place to write to: exists, full, forbidden, in use
├── UnfinishedError         work that others gave up; what is finished is kept, and the same command goes on
├── PromptError             prompts that cannot be used, with file and line
├── EngineError             completions could not be made: no chat template, out of memory
├── ScorerError             a scorer that failed or returned something that is not a reward
├── CatalogueError          a catalogue of pairs that cannot be read, or a name that it lacks
├── EvaluationError         outputs, judgements or results that cannot be evaluated, with file and record
├── RecipeError             a recipe or its data that cannot be trained on, with file and line
├── TrainingError           a training that cannot go on: NaN loss, out of memory
├── StudyError              a study that is in use, foreign, or was begun with other settings
└── MissingExtraError       an optional dependency is absent; the message is the pip command
"""

from collections.abc import Sequence


class ExpoError(Exception):
    """Base of all errors that are meant for the user; the command line prints it as one line and exits with 1.

    Whatever a library said over several lines is folded into one here, for everybody who passes it on.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class CheckpointError(ExpoError):
    """A folder or file that is not a readable checkpoint."""


class MismatchError(CheckpointError):
    """Two checkpoints that do not belong together."""


class OutputError(ExpoError):
    """The place to write to exists, is full, is forbidden or is in use."""


class UnfinishedError(ExpoError):
    """Work was given up by those who did it, a cluster for one. What is finished is kept: the same run goes on."""


class PromptError(ExpoError):
    """Prompts that cannot be used."""


class EngineError(ExpoError):
    """Completions could not be made."""


class ScorerError(ExpoError):
    """A scorer failed, or returned something that is not a finite number per conversation."""


class CatalogueError(ExpoError):
    """A catalogue of pairs cannot be read, or lacks a name."""


class EvaluationError(ExpoError):
    """Outputs, judgements or results cannot be evaluated."""


class RecipeError(ExpoError):
    """A recipe, or the data that it names, cannot be trained on."""


class TrainingError(ExpoError):
    """A training cannot go on; its last good save stays."""


class StudyError(ExpoError):
    """A study is in use, is not a study, or was begun with other settings."""


class MissingExtraError(ExpoError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; it comes with: pip install 'llm-expo[{extra}]'")


def listed(items: Sequence[str], separator: str = "; ", most: int = 12) -> str:
    """`items` in one line: the first ones, as many as still can be read, and how many more there are."""
    named, more = separator.join(items[:most]), len(items) - most
    link = " " if separator == ", " else separator
    return f"{named}{link}and {more} more" if more > 0 else named
