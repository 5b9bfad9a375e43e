"""OpenLineage events of a job: START, then COMPLETE, FAIL or ABORT, with what it read and wrote.

Off unless RAY_GGSM_LINEAGE gives the namespace of the jobs. Where events go (console, file, http, ...), the client
takes from its own settings: OPENLINEAGE_URL, OPENLINEAGE__TRANSPORT__TYPE and so on, or openlineage.yml. Events have
locations, columns, versions, counts and the sentence of an error, as printed; no rows, no user ids, no settings. One
that cannot be delivered ends no job: a line says so.
"""

import datetime as dt
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass

from ray_ggsm import storage
from ray_ggsm.config import InputError
from ray_ggsm.lineage import Dataset, noted
from ray_ggsm.log import say_error

VARIABLE = "RAY_GGSM_LINEAGE"
"""Environment variable with the namespace of jobs in events."""
PRODUCER = "urn:ray-ggsm"
"""Who makes the events, in their terms."""


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    """Exit code."""
    sentence: str | None = None
    """What was printed about its error; None: there was none, or not in one sentence."""

    @property
    def state(self) -> str:
        """OpenLineage's word: exit code 5 is done, but for what is listed; above 128 a signal ended the job."""
        if self.code in (0, 5):
            return "COMPLETE"
        return "ABORT" if self.code > 128 else "FAIL"


def recorded(job: str, work: Callable[[], Ended]) -> Ended:
    """Do the work of a job (`refresh.night`, say), with an event before and one after it where these are wanted."""
    namespace = os.environ.get(VARIABLE)
    if not namespace:
        return work()
    try:
        events = _Events(namespace, job)
    except ImportError:
        sentence = f"{VARIABLE} asks for events of OpenLineage; pip install 'ray-ggsm[lineage]', or unset it"
        say_error(f"error: {sentence}")
        return Ended(2, sentence)
    with noted() as datasets:
        events.emit("START")
        try:
            ended = work()
        except BaseException:  # SystemExit of a library: still the end of the job
            events.emit("FAIL", datasets.others, list(datasets.outputs.values()), Ended(1))
            raise
        else:
            events.emit(ended.state, datasets.others, list(datasets.outputs.values()), ended)
        finally:
            events.close()
    return ended


class _Events:
    """The events of one run."""

    def __init__(self, namespace: str, job: str) -> None:
        from openlineage.client import OpenLineageClient, event_v2
        from openlineage.client.uuid import generate_new_uuid

        self._made_of, self._delivers = event_v2, True
        self._run = str(generate_new_uuid())
        self._namespace, self._job = namespace, job
        try:
            self._client = OpenLineageClient()
        except Exception as error:
            raise InputError(f"{VARIABLE}: the settings of OpenLineage's client are wrong ({error})") from error

    def emit(
        self,
        state: str,
        inputs: list[Dataset] | None = None,
        outputs: list[Dataset] | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Send an event, unless an earlier one could not be sent."""
        if not self._delivers:
            return
        made_of = self._made_of
        try:
            self._client.emit(
                made_of.RunEvent(
                    eventTime=dt.datetime.now(dt.UTC).isoformat(),
                    eventType=made_of.RunState[state],
                    run=made_of.Run(runId=self._run, facets=_run_facets(state, ended)),
                    job=made_of.Job(namespace=self._namespace, name=self._job, facets=_job_facets()),
                    inputs=[made_of.InputDataset(*_name(each), facets=_facets(each)) for each in inputs or ()],
                    outputs=[
                        made_of.OutputDataset(*_name(each), facets=_facets(each), outputFacets=_counts(each))
                        for each in outputs or ()
                    ],
                    producer=PRODUCER,
                )
            )
        except Exception as error:  # whatever a transport raises
            self._delivers = False
            say_error(f"lineage: events of this run are not delivered ({type(error).__name__}); the job goes on")

    def close(self) -> None:
        """Wait for a transport that sends in the background."""
        try:
            self._client.close(10.0)
        except Exception as error:
            say_error(f"lineage: the last event may not be delivered ({type(error).__name__})")


def _name(dataset: Dataset) -> tuple[str, str]:
    """Namespace and name of a dataset, by OpenLineage's conventions: store and bucket, then the path; or `file`."""
    location = storage.without_credentials(storage.absolute(dataset.location))
    scheme, separator, rest = location.partition("://")
    bucket, _, path = rest.partition("/")
    return (f"{scheme}://{bucket}", path) if separator else ("file", location)


def _facets(dataset: Dataset) -> dict[str, object]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    found: dict[str, object] = {}
    if dataset.version is not None:
        found["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(dataset.version, producer=PRODUCER)
    if dataset.columns:
        fields = [schema_dataset.SchemaDatasetFacetFields(name, type=kind) for name, kind in dataset.columns]
        found["schema"] = schema_dataset.SchemaDatasetFacet(fields, producer=PRODUCER)
    return found


def _counts(dataset: Dataset) -> dict[str, object]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    if dataset.rows is None:
        return {}
    return {"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows, producer=PRODUCER)}


def _job_facets() -> dict[str, object]:
    from openlineage.client.facet_v2 import job_type_job

    kind = job_type_job.JobTypeJobFacet("BATCH", "RAY_GGSM", jobType="JOB", producer=PRODUCER)
    return {"jobType": kind}


def _run_facets(state: str, ended: Ended | None) -> dict[str, object]:
    from openlineage.client.facet_v2 import error_message_run, processing_engine_run

    engine = processing_engine_run.ProcessingEngineRunFacet(importlib.metadata.version("ray"), "ray", producer=PRODUCER)
    found: dict[str, object] = {"processing_engine": engine}
    if ended is not None and state != "COMPLETE":
        message = storage.without_credentials(ended.sentence or f"exit code {ended.code}; the job's own lines say more")
        found["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "PYTHON", producer=PRODUCER)
    return found
