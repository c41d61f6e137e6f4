"""Bodies such as OpenShift clusters send: deterministic, and of any number of series.

A series has 8 to 16 labels, and takes about 345 bytes as a federated metric before compression. Its
labels are those that Prometheus has put there (job, instance, pod and so on), those of its own, and
the cluster's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from telemeter.samples.compression import compress_block, compress_framed
from telemeter.samples.family import Family, Metric
from telemeter.samples.proto.metrics_pb2 import UNTYPED, LabelPair, Untyped
from telemeter.samples.proto.remote_pb2 import Label, Sample, TimeSeries, WriteRequest
from telemeter.samples.wire import join_delimited

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Stands for the cluster's identifier in what is encoded once for all clusters.
_ANY_CLUSTER: Final = "c0ffee00-0000-4000-a000-000000000000"

_OPERATORS = [
    "authentication",
    "cloud-credential",
    "cluster-autoscaler",
    "console",
    "dns",
    "etcd",
    "image-registry",
    "ingress",
    "insights",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "machine-api",
    "machine-config",
    "marketplace",
    "monitoring",
    "network",
    "node-tuning",
    "openshift-apiserver",
    "openshift-samples",
    "service-ca",
    "storage",
]
_RESOURCES = [
    "pods",
    "nodes",
    "secrets",
    "configmaps",
    "services",
    "endpoints",
    "events",
    "leases",
    "deployments.apps",
    "replicasets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "cronjobs.batch",
    "roles.rbac",
    "namespaces",
    "routes.route.openshift.io",
    "builds.build.openshift.io",
    "imagestreams.image.openshift.io",
]
_FLAVORS = [
    "m5.large",
    "m5.xlarge",
    "m5.2xlarge",
    "c5.xlarge",
    "r5.2xlarge",
    "Standard_D4s_v3",
    "n1-standard-8",
]
#: Values that a label of a metric's own takes, by the label's name.
_VALUES: Final = {
    "alertname": ["KubePodCrashLooping", "TargetDown", "ClusterOperatorDegraded", "Watchdog"],
    "alertstate": ["firing", "pending"],
    "code": ["200", "201", "403", "404", "409", "422", "500", "503"],
    "condition": ["Available", "Degraded", "Progressing", "Upgradeable"],
    "container": _OPERATORS,
    "from_version": ["4.14.8", "4.14.11", "4.15.0"],
    "image": ["quay.io/openshift-release-dev/ocp-release@sha256:9f2c5d1a7b", "quay.io/o/r:4.15"],
    "label_beta_kubernetes_io_instance_type": _FLAVORS,
    "label_kubernetes_io_arch": ["amd64", "arm64"],
    "label_node_hyperthread_enabled": ["true", "false"],
    "label_node_openshift_io_os_id": ["rhcos"],
    "label_node_role_kubernetes_io": ["master", "worker", "infra"],
    "name": _OPERATORS,
    "operation": ["mount", "pull", "push"],
    "phase": ["Pending", "Running", "Succeeded", "Failed"],
    "reason": ["AsExpected", "Error", "OOMKilled", "Unavailable"],
    "resource": _RESOURCES,
    "scope": ["cluster", "namespace", "resource"],
    "severity": ["info", "warning", "critical"],
    "type": ["current", "completed", "initial", "update"],
    "verb": ["GET", "LIST", "PATCH", "POST", "PUT", "WATCH"],
    "version": ["4.14.8", "4.14.11", "4.15.0", "4.15.2"],
}
_CAPACITY = (
    "label_beta_kubernetes_io_instance_type label_kubernetes_io_arch "
    "label_node_hyperthread_enabled label_node_openshift_io_os_id label_node_role_kubernetes_io"
)

#: Metrics, how many of a thousand series each has, the job that is scraped for it (none: a
#: recording rule has made it), and the labels of its own.
_METRICS: Final = (
    ("alerts", 40, "", "alertname alertstate severity container reason"),
    ("apiserver_list_watch_request_success_total:rate:sum", 40, "", "verb resource scope code"),
    ("cluster:capacity_cpu_cores:sum", 20, "", _CAPACITY),
    ("cluster:capacity_memory_bytes:sum", 20, "", _CAPACITY),
    ("cluster:cpu_usage_cores:sum", 10, "", "container phase scope reason"),
    ("cluster:memory_usage_bytes:sum", 10, "", "container phase scope reason"),
    ("cluster:node_instance_type_count:sum", 15, "", _CAPACITY),
    ("cluster_installer", 5, "cluster-version-operator", "type version"),
    ("cluster_operator_conditions", 160, "cluster-version-operator", "condition name reason"),
    ("cluster_operator_up", 110, "cluster-version-operator", "name version"),
    ("cluster_version", 25, "cluster-version-operator", "from_version image type version"),
    ("cluster_version_payload", 15, "cluster-version-operator", "type version"),
    ("code:apiserver_request_total:rate:sum", 110, "", "code verb resource scope"),
    ("count:up1", 50, "", "container scope reason phase"),
    ("etcd_mvcc_db_total_size_in_bytes", 25, "etcd", ""),
    ("image_registry_storage_type", 20, "image-registry", "operation"),
    ("instance:etcd_object_counts:sum", 120, "", "resource scope container phase"),
    ("kube_node_status_condition", 40, "kube-state-metrics", "condition phase"),
    ("kube_pod_restart_reason", 65, "kube-state-metrics", "container phase reason severity"),
    ("machine_health_status", 20, "machine-api", "phase label_node_role_kubernetes_io"),
    ("node_uname_info", 20, "kube-state-metrics", _CAPACITY),
    ("up", 60, "apiserver", "scope"),
)
#: The names of all metrics.
NAMES: Final = tuple(name for name, *_ in _METRICS)


@dataclass(frozen=True, slots=True)
class Series:
    """One series with its sample.

    Attributes:
        name: of the metric.
        labels: names and values, but for the metric's name and the cluster.
        value: of the sample.
        age_ms: how many milliseconds before now the sample was taken.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float
    age_ms: int


def make_series(count: int) -> list[Series]:
    """Return so many series, all different, and the same at every call; a metric's are together."""
    rng = random.Random(count)
    series: list[Series] = []
    owed = 0
    for name, share, job, own in _METRICS:
        owed += share * count
        # One age for all: a family's samples have to be in the order of their times.
        age_ms = rng.randrange(30_000)
        # So many of the count are due up to here, to the nearest whole one.
        while len(series) < (owed + 500) // 1000:
            labels = _labels(rng, len(series), job, own.split())
            series.append(Series(name, labels, _value(rng), age_ms))
    return series


def _labels(
    rng: random.Random, number: int, job: str, own: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Return the labels of the series with that number; no other has the same."""
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    labels = {name: rng.choice(_VALUES[name]) for name in own}
    if job:
        labels |= {
            "endpoint": "https",
            "instance": f"{address}:8443",
            "job": job,
            "namespace": f"openshift-{job}",
            "pod": f"{job}-{rng.getrandbits(32):08x}-{rng.getrandbits(20):05x}",
            "service": job,
        }
    else:
        node = address.replace(".", "-")
        labels["node"] = f"ip-{node}.eu-west-1.internal"
    labels |= {
        "prometheus": "openshift-monitoring/k8s",
        "prometheus_replica": f"prometheus-k8s-{rng.randrange(2)}",
    }
    return tuple(sorted(labels.items()))


def _value(rng: random.Random) -> float:
    """Metrics are mostly flags and counts, and sometimes measured."""
    return rng.choice((0.0, 1.0, float(rng.randrange(1000)), rng.random() * 1e9))


class Bodies:
    """The bodies that clusters with the same series send; only the cluster's identifier differs."""

    def __init__(self, series: Sequence[Series], now_ms: int) -> None:
        self._families = _encode_families(series, now_ms)
        self._write = _encode_write(series, now_ms)

    def upload(self, cluster: str) -> bytes:
        """Return what an agent posts: delimited families, as framed snappy."""
        return compress_framed(_with_cluster(self._families, cluster))

    def write(self, cluster: str) -> bytes:
        """Return what a Prometheus posts: a remote-write 1.0 request, as a block of snappy."""
        return compress_block(_with_cluster(self._write, cluster))


def _with_cluster(encoded: bytes, cluster: str) -> bytes:
    if len(cluster) != len(_ANY_CLUSTER):
        raise ValueError(f"a cluster's identifier must have {len(_ANY_CLUSTER)} characters")
    return encoded.replace(_ANY_CLUSTER.encode(), cluster.encode())


def cluster_id(number: int) -> str:
    """Return the identifier of the cluster with that number."""
    digits = f"{random.Random(number).getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _encode_families(series: Sequence[Series], now_ms: int) -> bytes:
    families: dict[str, Family] = {}
    for each in series:
        family = families.setdefault(each.name, Family(name=each.name, type=UNTYPED))
        labels = (*each.labels, ("_id", _ANY_CLUSTER))
        metric = Metric(
            label=[LabelPair(name=name, value=value) for name, value in labels],
            untyped=Untyped(value=each.value),
            timestamp_ms=now_ms - each.age_ms,
        )
        family.metric.append(metric)
    return join_delimited(family.SerializeToString() for family in families.values())


def _encode_write(series: Sequence[Series], now_ms: int) -> bytes:
    request = WriteRequest()
    for each in series:
        labels = sorted((*each.labels, ("__name__", each.name), ("_id", _ANY_CLUSTER)))
        sample = Sample(value=each.value, timestamp=now_ms - each.age_ms)
        labelled = [Label(name=name, value=value) for name, value in labels]
        request.timeseries.append(TimeSeries(labels=labelled, samples=[sample]))
    return request.SerializeToString()


def whitelist(rules: int) -> list[str]:
    """Return so many different names for a whitelist, those of the series among them, mixed.

    Raises:
        ValueError: fewer than the series have names.
    """
    if rules < len(NAMES):
        raise ValueError(f"{rules} rules are not enough for {len(NAMES)} metrics")
    others = (f"namespace_{number}:never_sent:sum" for number in range(rules - len(NAMES)))
    names = [*NAMES, *others]
    random.Random(rules).shuffle(names)
    return names
