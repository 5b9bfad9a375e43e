"""Rules and dashboard of infra/monitoring read metrics that a live Ray exports."""

import urllib.request
from types import SimpleNamespace

import ray
from prometheus_client.parser import text_string_to_metric_families
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from tests.helpers.monitoring import OF_GPUS, metric_names
from tests.helpers.waiting import wait_until
from tests.on_ray.test_embed import Counting


def test_ray_exports_what_the_rules_read() -> None:
    wanted = {name for name in metric_names() if name.startswith("ray_") and ":" not in name}
    wanted = {name for name in wanted if not name.startswith("ray_ggsm_table_")} - OF_GPUS
    assert {"ray_ggsm_users_embedded_total", "ray_ggsm_tokens_total", "ray_node_cpu_count"} <= wanted
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    build = SimpleNamespace(table="s3://bucket/users", run="named")
    actors = [ray.remote(num_cpus=0)(Counting).remote(build, name) for name in ("users_embedded", "tokens")]
    ray.get([actor.count.remote(5) for actor in actors])

    def exported() -> bool:
        with urllib.request.urlopen(address) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        return wanted <= {sample.name for family in families for sample in family.samples}

    assert wait_until(exported)
    assert {name.removeprefix("ray_") for name in OF_GPUS} <= set(METRICS_GAUGES)
