"""The connection to a Ray cluster, and what its nodes have room for."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from llm_expo.errors import ExpoError, MissingExtraError

logger = logging.getLogger(__name__)


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Be connected to a Ray cluster.

    In this order: the one that this process is connected to already, that of `address`, that of RAY_ADDRESS, one that
    runs on this machine, a new one on this machine, which ends on leaving.

    Raises MissingExtraError, and ExpoError where there is no connection.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "ray") from None
    if ray.is_initialized():
        yield
        return
    _connect(address)
    try:
        yield
    finally:
        ray.shutdown()


def cores_of_nodes() -> list[int]:
    """Of each node of the cluster that is alive."""
    return [int(resources.get("CPU", 0)) for resources in _resources()]


def gpus_of_nodes() -> list[int]:
    """Of each node of the cluster that is alive."""
    return [int(resources.get("GPU", 0)) for resources in _resources()]


def _resources() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _connect(address: str | None) -> None:
    import ray

    named = address or os.environ.get("RAY_ADDRESS", "")
    host, _, port = named.rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:
            # Ray itself goes on trying for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        try:
            ray.init(address=named or "auto", logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError:
            if named:
                raise
            logger.info("no Ray cluster is running here: starting one on this machine alone")
            with _no_usage_statistics():
                ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        said = "" if address else "RAY_ADDRESS "
        raise ExpoError(f"{said}{named}: {error}" if named else f"Ray: {error}") from error


@contextmanager
def _no_usage_statistics() -> Iterator[None]:
    """Ray's own are sent to its makers, unless the environment in which a cluster starts says otherwise."""
    name = "RAY_USAGE_STATS_ENABLED"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
