"""deploy/kubernetes: the pods that its values make, held against the Pod Security Standard "restricted".

The pods of runs and steps are made by dagster-k8s as in a cluster; those of the services, which the chart's templates
make, are read from the values by the models of the Kubernetes client. The standard:
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import copy
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._config import process_config
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client import ApiClient
from postgres import free_port

from crucible_dagster.compile.executors import without_token
from crucible_dagster.service.k8s_launcher import PatientK8sRunLauncher

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
DEPLOYMENT = VALUES["dagster-user-deployments"]["deployments"][0]

CLUSTER = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: here, context: {cluster: none, user: nobody}}]
current-context: here
"""


def read(kind: str, given: Mapping[str, Any]) -> Any:
    """The object as Kubernetes has it, in JSON. A field that it does not know is an error."""

    class Answer:
        data = json.dumps(given)

    client = ApiClient()
    known = client.sanitize_for_serialization(client.deserialize(Answer, kind))
    assert known == given
    return known


def config_of(folder: Path, **given: Any) -> dict[str, Any]:
    """The launcher's settings, but for where the cluster is."""
    file = folder / "config"
    file.write_text(CLUSTER)
    config: dict[str, Any] = copy.deepcopy(VALUES["runLauncher"]["config"]["customRunLauncher"]["config"])
    return {**config, "load_incluster_config": False, "kubeconfig_file": str(file), **given}


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> K8sRunLauncher:
    """The launcher with its settings."""
    checked = process_config(PatientK8sRunLauncher.config_type(), config_of(tmp_path_factory.mktemp("cluster")))
    assert checked.success, checked.errors
    return PatientK8sRunLauncher(**checked.value)


def job(launcher: K8sRunLauncher, *, step: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The Job of a run, or of a step of one whose executor is configured so."""
    run = DagsterRun(job_name="digits", run_id="00000000-0000-4000-8000-000000000000")
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    if step is not None:
        context = context.merge(K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig.from_dict(step)))
    image = f"{DEPLOYMENT['image']['repository']}:{DEPLOYMENT['image']['tag']}"
    made = construct_dagster_k8s_job(
        context.get_k8s_job_config(image, launcher),
        ["dagster", "api", "execute_run"],
        "dagster-run-0",
        user_defined_k8s_config=context.run_k8s_config,
    )
    described: dict[str, Any] = ApiClient().sanitize_for_serialization(made)
    return described


def pods(launcher: K8sRunLauncher) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "run", job(launcher)["spec"]["template"]["spec"]
    yield "step", job(launcher, step=without_token({}))["spec"]["template"]["spec"]
    services = {name: VALUES[name] for name in ("dagsterWebserver", "dagsterDaemon")} | {"code server": DEPLOYMENT}
    for name, values in services.items():
        container = {
            "name": "dagster",
            "image": values["image"]["repository"],
            "envFrom": [{"secretRef": one} for one in values["envSecrets"]],
            **{part: values[part] for part in ("securityContext", "resources", "volumeMounts")},
        }
        given = {
            "securityContext": values["podSecurityContext"],
            "volumes": values["volumes"],
            "containers": [container],
        }
        yield name, read("V1PodSpec", given)


VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def breaches(pod: Mapping[str, Any]) -> Iterator[str]:
    """What "restricted" forbids in the pod, and what we ask for besides: a read-only root, limits, one user."""
    of_pod = pod.get("securityContext", {})
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    yield from (str(one) for one in pod.get("volumes", ()) if len(one) != 2 or not VOLUMES & one.keys())
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        own = container.get("securityContext", {})
        asked = {**of_pod, **own}
        wanted = {
            "runAsNonRoot": asked.get("runAsNonRoot") is True,
            "runAsUser": asked.get("runAsUser", 0) > 0,
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities": own.get("capabilities") == {"drop": ["ALL"]},
            "seccompProfile": asked.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "readOnlyRootFilesystem": own.get("readOnlyRootFilesystem") is True,
            "limits": {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys(),
            "latest": not container["image"].endswith(":latest"),
            "ports": not any(port.get("hostPort") for port in container.get("ports", ())),
        }
        yield from (name for name, held in wanted.items() if not held)


@pytest.mark.fault("a container with too many rights")
def test_every_pod_is_restricted(launcher: K8sRunLauncher) -> None:
    found = dict(pods(launcher))
    assert len(found) == 5
    assert {name: list(breaches(pod)) for name, pod in found.items()} == {name: [] for name in found}


def test_what_a_pod_writes_to_is_mounted(launcher: K8sRunLauncher) -> None:
    for name, pod in pods(launcher):
        mounted = {one["mountPath"] for one in pod["containers"][0]["volumeMounts"]}
        writes = {"/tmp", f"{VALUES['global']['dagsterHome']}/storage", "/srv/crucible/reports"}
        assert writes <= mounted, name
        assert {one["name"] for one in pod["containers"][0]["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}


def test_a_pod_that_is_not_restricted_would_be_found(launcher: K8sRunLauncher) -> None:
    _, pod = next(pods(launcher))
    worse = copy.deepcopy(pod)
    worse["hostNetwork"] = True
    worse["volumes"].append({"name": "disk", "hostPath": {"path": "/"}})
    worse["securityContext"] = {}
    worse["containers"][0]["securityContext"] = {"privileged": True}
    worse["containers"][0]["resources"] = {}
    found = list(breaches(worse))
    assert {"hostNetwork", "runAsNonRoot", "runAsUser", "privileged", "capabilities", "seccompProfile", "limits"} <= {
        *found
    }
    assert any("hostPath" in one for one in found)


@pytest.mark.fault("a container with too many rights")
def test_a_step_has_no_token_of_the_service_account_unless_it_asks_for_one(launcher: K8sRunLauncher) -> None:
    spec = lambda step: job(launcher, step=step)["spec"]["template"]["spec"]  # noqa: E731
    assert job(launcher)["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert spec(without_token({}))["automountServiceAccountToken"] is False
    assert (
        spec(without_token({"container_config": {"resources": {"limits": {"cpu": "1"}}}}))[
            "automountServiceAccountToken"
        ]
        is False
    )
    asked = {"pod_spec_config": {"automount_service_account_token": True}}
    assert spec(without_token(asked))["automountServiceAccountToken"] is True


def test_a_run_has_its_password_from_the_secret_and_no_secret_is_in_the_values(launcher: K8sRunLauncher) -> None:
    (container,) = job(launcher)["spec"]["template"]["spec"]["containers"]
    (password,) = [one for one in container["env"] if one["name"] == "DAGSTER_PG_PASSWORD"]
    assert password["valueFrom"]["secretKeyRef"] == {"name": "crucible-postgresql", "key": "postgresql-password"}
    assert not VALUES["generatePostgresqlPasswordSecret"]
    assert "assword:" not in (FOLDER / "values.yaml").read_text()


def test_the_launcher_s_names_are_those_that_the_chart_makes() -> None:
    settings = VALUES["runLauncher"]["config"]["customRunLauncher"]["config"]
    names = VALUES["global"]
    assert settings["dagster_home"] == names["dagsterHome"]
    assert settings["postgres_password_secret"] == names["postgresqlSecretName"]
    assert settings["instance_config_map"] == f"{names['fullnameOverride']}-instance"
    assert (settings["service_account_name"], names["serviceAccountName"]) == (names["fullnameOverride"], "")
    namespace, _ = yaml.safe_load_all((FOLDER / "namespace.yaml").read_text())
    assert settings["job_namespace"] == namespace["metadata"]["name"]


class Cluster:
    """An API server that says one thing of every Job, or is away."""

    def __init__(self) -> None:
        self.answer: tuple[int, dict[str, Any]] = (200, {"status": {"active": 1}})
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = cluster.answer
                said = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self._handler = Handler
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def watched(cluster: Cluster, tmp_path: Path) -> Iterator[DagsterInstance]:
    """An instance with the launcher, whose cluster that is."""
    config = config_of(tmp_path, unanswered_seconds=5.0)
    file = Path(config["kubeconfig_file"])
    file.write_text(file.read_text().replace("127.0.0.1:1", f"127.0.0.1:{cluster.port}"))
    launcher = {"module": PatientK8sRunLauncher.__module__, "class": PatientK8sRunLauncher.__name__, "config": config}
    settings = {"run_launcher": launcher, "run_monitoring": {"enabled": True}}
    with DagsterInstance.local_temp(str(tmp_path), overrides=settings) as instance:
        yield instance


@pytest.mark.fault("the Kubernetes API does not answer")
def test_a_run_is_dead_when_the_cluster_says_so_or_has_not_answered_for_long(
    cluster: Cluster, watched: DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]
    monkeypatch.setattr("crucible_dagster.service.k8s_launcher.time", SimpleNamespace(monotonic=lambda: now[0]))

    def monitored(run: DagsterRun) -> DagsterRunStatus:
        record = watched.get_run_record_by_id(run.run_id)
        assert record is not None
        monitor_started_run(watched, None, record, logging.getLogger("daemon"))  # type: ignore[arg-type]
        found = watched.get_run_by_id(run.run_id)
        assert found is not None
        return found.status

    def started() -> DagsterRun:
        return create_run_for_test(watched, job_name="digits", status=DagsterRunStatus.STARTED)

    first, second = started(), started()
    assert monitored(first) is DagsterRunStatus.STARTED
    cluster.stop()
    assert monitored(first) is DagsterRunStatus.STARTED
    now[0] += 4.0
    assert monitored(first) is DagsterRunStatus.STARTED
    cluster.start()
    assert monitored(first) is DagsterRunStatus.STARTED
    cluster.stop()
    now[0] += 4.0  # it has answered meanwhile: the time begins anew
    assert monitored(first) is DagsterRunStatus.STARTED
    now[0] += 6.0
    assert monitored(first) is DagsterRunStatus.FAILURE
    cluster.start()
    cluster.answer = (404, {"kind": "Status", "reason": "NotFound", "code": 404})
    assert monitored(second) is DagsterRunStatus.FAILURE


def test_the_namespace_admits_only_restricted_pods_and_no_traffic_from_outside() -> None:
    namespace, policy = yaml.safe_load_all((FOLDER / "namespace.yaml").read_text())
    labels = read("V1Namespace", namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = read("V1NetworkPolicy", policy)["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
