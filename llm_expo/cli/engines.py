"""What makes replies, from the options of a verb: sampling and engine."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_expo.cli.options import Refuse, positive
from llm_expo.errors import ExpoError

if TYPE_CHECKING:
    from llm_expo.evaluation.models import Model
    from llm_expo.generation import Engine, Sampling
    from llm_expo.generation.whole import Whole
    from llm_expo.weights import Direction

REPLICAS = 2
_GO_WITH = {
    "transformers": ("low_memory",),
    "vllm": ("vllm_python", "tensor_parallel", "device_memory"),
    "ray": ("replicas", "ray_address", "low_memory"),
}
"""Options that are of no use to every engine, and whose they are."""


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How replies are drawn; `sampling_of` reads them."""
    sampling = parser.add_argument_group("sampling (the defaults are the paper's)")
    sampling.add_argument("--temperature", type=float, help="default: 0.7")
    sampling.add_argument("--top-k", type=int, help="default: 50")
    sampling.add_argument("--top-p", type=float, help="default: 0.9")
    sampling.add_argument("--presence-penalty", type=float, help="default: 0.1")
    sampling.add_argument("--frequency-penalty", type=float, help="default: 0.1")
    sampling.add_argument("--seed", type=int, help="default: 42")
    sampling.add_argument("--max-tokens", type=int, help="of a reply; default: 2048")


def add_engine_options(parser: argparse.ArgumentParser, *flags: str) -> "argparse._ArgumentGroup":
    """What makes the replies, and where; `engine_of` reads them.

    flags: those of the engine itself. Returns the group, for what else is the machine's.
    """
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--device",
        help="such as cpu or cuda; auto spreads the model over all GPUs (transformers only); default: a GPU if any. "
        "With vllm it is for reward models",
    )
    group.add_argument(
        "--dtype",
        choices=("keep", "float32", "bfloat16", "float16"),
        default="keep",
        help="what theta(alpha) is rounded to and computed in, and written as; default: theta1's",
    )
    group.add_argument(
        *flags,
        dest="engine",
        choices=("transformers", "vllm", "ray"),
        default="transformers",
        help="what makes the replies: transformers here, vLLM in a process of its own, or transformers in several "
        "replicas on a Ray cluster; default: %(default)s",
    )
    group.add_argument("--replicas", type=positive, help=f"with ray; default: {REPLICAS}")
    group.add_argument(
        "--ray-address", metavar="HOST:PORT", help="with ray: a cluster that runs; default: this machine alone"
    )
    group.add_argument(
        "--vllm-python", type=Path, metavar="PATH", help="with vllm: the Python under which vLLM is installed"
    )
    group.add_argument("--tensor-parallel", type=positive, metavar="N", help="with vllm: GPUs that share the model")
    group.add_argument("--device-memory", type=float, metavar="SHARE", help="with vllm: of each GPU, 0 to 1")
    group.add_argument(
        "--low-memory", action="store_true", help="write each theta(alpha) to disk instead of holding both checkpoints"
    )
    group.add_argument(
        "--trust-remote-code", action="store_true", help="let Python code in the checkpoints and the reward model run"
    )
    return group


def check_engine(arguments: argparse.Namespace, refuse: Refuse) -> None:
    """Refuse what is another engine's, and an engine without what it needs."""
    for name in sorted({name for names in _GO_WITH.values() for name in names}):
        engines = [engine for engine, names in _GO_WITH.items() if name in names]
        if getattr(arguments, name) not in (None, False) and arguments.engine not in engines:
            refuse(f"--{name.replace('_', '-')} goes with the engine {' or '.join(engines)}")
    if arguments.device == "auto" and arguments.engine != "transformers":
        refuse("--device auto goes with the engine transformers")
    if arguments.engine == "vllm" and arguments.vllm_python is None:
        refuse("the engine vllm needs --vllm-python PATH, the Python under which vLLM is installed (docs/engines.md)")


def sampling_of(arguments: argparse.Namespace, usual: "Sampling | None" = None) -> "Sampling":
    """The sampling that the options state; what they leave open is as in `usual`, or the paper's."""
    from llm_expo.generation import Sampling

    given = {field.name: getattr(arguments, field.name) for field in fields(Sampling)}
    return replace(usual or Sampling(), **{name: value for name, value in given.items() if value is not None})


def engine_of(arguments: argparse.Namespace, direction: "Direction", sampling: "Sampling", held: ExitStack) -> "Engine":
    """The engine that was asked for; what has to be given back afterwards is left to `held`."""
    shared: dict[str, Any] = {
        "dtype": arguments.dtype,
        "scratch": arguments.out / "scratch",
        "trust_remote_code": arguments.trust_remote_code,
    }
    match arguments.engine:
        case "vllm":
            from llm_expo.generation.vllm_engine import VllmEngine

            return VllmEngine(
                direction,
                sampling,
                python=arguments.vllm_python,
                tensor_parallel=arguments.tensor_parallel or 1,
                memory=arguments.device_memory,
                log=arguments.out / "vllm.log",
                **shared,
            )
        case "ray":
            from llm_expo.generation.ray_engine import ray_engine_from

            # Ray tells of lost nodes on standard output, where nothing but the result belongs.
            held.enter_context(redirect_stdout(sys.stderr))
            return held.enter_context(
                ray_engine_from(
                    direction,
                    sampling,
                    replicas=arguments.replicas or REPLICAS,
                    address=arguments.ray_address,
                    device=arguments.device,
                    low_memory=arguments.low_memory,
                    **shared,
                )
            )
        case _:
            from llm_expo.generation import TransformersEngine

            device = device_of(arguments.device)
            return TransformersEngine(direction, sampling, device=device, low_memory=arguments.low_memory, **shared)


def opened(arguments: argparse.Namespace, sampling: "Sampling") -> "Callable[[Model], AbstractContextManager[Engine]]":
    """From a model to the engine that makes its replies, for as long as it is wanted."""

    @contextmanager
    def engine(model: "Model") -> "Iterator[Engine]":
        from llm_expo.weights import Direction

        with ExitStack() as held:
            yield engine_of(arguments, Direction.alone(model.place), sampling, held)

    return engine


def whole_of(arguments: argparse.Namespace, direction: "Direction") -> "Whole":
    """theta1 of `direction` as one whole model, for those that ask it in their own way."""
    import torch

    from llm_expo.generation.whole import Whole

    name = device_of(arguments.device)
    return Whole(
        direction,
        "auto" if name == "auto" else torch.device(name),
        arguments.dtype,
        arguments.out / "scratch",
        arguments.trust_remote_code,
    )


def device_of(name: str | None) -> str:
    """The device that was asked for, if this machine has it; a GPU, if there is one, by default."""
    import torch

    if name == "auto":
        return name
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise ExpoError(f"--device {name}: {str(error).splitlines()[0].split('. ')[0]}") from None
    return name
