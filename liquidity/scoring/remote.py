"""Files scored by a Dask cluster's workers; the model is sent to them."""

import threading
from concurrent.futures import as_completed
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from liquidity.errors import MarketDataError
from liquidity.executors import dask as cluster
from liquidity.model import loading
from liquidity.runs.store import quieten_mlflow
from liquidity.scoring.files import score_file, unscored


def score_on_cluster(address, folder, jobs, count, *, console):
    """`score_here` with a file per thread of a Dask cluster's workers, which have to see the
    files under the same paths; the model in `folder` is sent to them.
    """
    jobs = [(source.resolve(), target.resolve()) for source, target in jobs]
    outputs = jobs[0][1].parent
    with (
        cluster.cluster_executor(
            address, module=__name__, packages=cluster.SCORING, console=console
        ) as executor,
        # Whoever sees this file has the same folder; when the job ends, it ends what still runs.
        NamedTemporaryFile(prefix=".scoring-", dir=outputs) as marker,
    ):
        running = Path(marker.name)
        running.chmod(0o644)  # workers may be another user's
        executor.check_paths([running, *(source for source, _ in jobs)], [outputs])
        files = executor.send({name: Path(folder, name).read_bytes() for name in loading.FILES})
        futures = {
            executor.submit(score_sent, files, source, target, running): source
            for source, target in jobs
        }
        for future in as_completed(futures):
            count(futures[future].stat().st_size, *future.result())


def score_sent(files, source, target, running):
    """On a cluster's worker: score a file by the model in `files`; the rows, and the unscored.

    An output that exists was asked to be replaced, or is by a worker that died before it said so.
    """
    rows = errors = 0

    def on_block(position, scored):
        nonlocal rows, errors
        if not running.exists():
            raise MarketDataError(f"{source}: its job has ended, or does not have {running} here.")
        rows, errors = rows + len(scored), errors + unscored(scored)

    # A worker has as many of these at once as it has threads.
    score_file(_model_of(files), source, target, overwrite=True, threads=1, on_block=on_block)
    return rows, errors


def _model_of(files):
    """The model of these files, loaded once per process and kept until another one is asked for."""
    with _loading:
        if _loaded.get("files") != files:
            quieten_mlflow()
            with TemporaryDirectory() as folder:
                for name, content in files.items():
                    path = Path(folder, name)
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(content)
                _loaded.update(files=files, model=loading.load_checked(folder))
        return _loaded["model"]


_loaded, _loading = {}, threading.Lock()
