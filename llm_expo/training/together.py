"""Several processes of one run: what fails in one of them is told to the others, which would wait for it for ever."""

from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

from llm_expo.errors import TrainingError

T = TypeVar("T")


def together(processes: PartialState, work: Callable[[], T]) -> T:
    """Have every process do `work`, which must not wait for the others itself, and go on when all have done it.

    Where it fails in some, they raise their own error, and the others TrainingError, which says what and where.
    """
    if processes.num_processes == 1:
        return work()
    try:
        done = work()
    except Exception as error:
        gather_object([str(error) or type(error).__name__])
        raise
    told: list[str | None] = gather_object([None])
    for process, said in enumerate(told):
        if said is not None:
            raise TrainingError(f"process {process} of {processes.num_processes} stopped: {said}")
    return done


def first_alone(processes: PartialState, work: Callable[[], object]) -> None:
    """Have the first process do `work` while the others wait; where it fails, all raise as in `together`."""
    together(processes, lambda: work() if processes.is_main_process else None)
