"""Work on a Ray cluster, or on one that is started here (`compute.engine: ray`). Needs the extra `avcil[ray]`."""

from collections.abc import Callable, Iterator


def connected():
    """Ray, connected: to the cluster that RAY_ADDRESS names, else to one started here."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise ValueError("compute.engine: ray, but Ray is not installed: pip install 'avcil[ray]'") from None
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def each(function: Callable, items: list, gpus: float) -> Iterator[tuple[int, object]]:
    """(number, function(item)) as they are done, one processor and so many ``gpus`` each. Raises what the function
    raised."""
    ray = connected()
    remote = ray.remote(num_cpus=1, num_gpus=gpus)(function)
    waiting = {remote.remote(item): number for number, item in enumerate(items)}
    try:
        while waiting:
            done, _ = ray.wait(list(waiting))
            yield waiting.pop(done[0]), ray.get(done[0])
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)
