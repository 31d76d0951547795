"""Files scored by a Dask cluster's workers; the model is sent to them."""

import os
import threading
from concurrent.futures import as_completed
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from liquidity.errors import ClusterError, MarketDataError
from liquidity.executors import workers
from liquidity.model import loading
from liquidity.runs.store import quieten_mlflow
from liquidity.scoring.blocks import unscored
from liquidity.scoring.files import score_file


def score_on_cluster(address, folder, jobs, count, *, console):
    """`score_here` with a file per thread of a Dask cluster's workers, which have to see the
    files under the same paths; the model in `folder` is sent to them.
    """
    jobs = [(source.resolve(), target.resolve()) for source, target in jobs]
    outputs = jobs[0][1].parent
    with (
        workers(address, score_sent, console=console) as executor,
        # Whoever sees this file has the same folder; when the job ends, it ends what still runs.
        NamedTemporaryFile(prefix=".scoring-", dir=outputs) as marker,
    ):
        running = Path(marker.name)
        running.chmod(0o644)  # workers may be another user's
        check_paths(executor, [running, *(source for source, _ in jobs)], outputs)
        files = {name: Path(folder, name).read_bytes() for name in loading.files(folder)}
        futures = [
            executor.submit(score_sent, files, source=source, target=target, running=running)
            for source, target in jobs
        ]
        for future in as_completed(futures):
            count(*future.result())


def check_paths(executor, files, folder):
    """Raise ClusterError where a worker does not have these files, or cannot write in `folder`."""
    sizes = {file: file.stat().st_size for file in files}
    for worker, path in executor.on_every_worker(first_unseen, sizes, folder).items():
        if path:
            raise ClusterError(
                f"Worker {worker} does not have {path} as this machine has it: put input and "
                "output where all workers can read and write them under the same path, or score "
                "without a scheduler."
            )


def first_unseen(sizes, folder):
    """On a worker: the first file that is not there in its size, the folder if it cannot be
    written to, or None.
    """
    for path, size in sizes.items():
        if not os.access(path, os.R_OK) or path.stat().st_size != size:
            return path
    return None if os.access(folder, os.W_OK) else folder


def score_sent(files, *, source, target, running):
    """On a worker: score a file by the model in `files`; its bytes, rows and unscored rows.

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
    return source.stat().st_size, rows, errors


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
