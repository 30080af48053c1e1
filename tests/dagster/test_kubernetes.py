"""deploy/kubernetes: the pods that its values make, held against the Pod Security Standard "restricted".

The pods of runs and steps are made by dagster-k8s as in a cluster; those of the services, which the chart's templates
make, are read from the values by the models of the Kubernetes client. The standard:
https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterRun
from dagster._config import process_config
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import UserDefinedDagsterK8sConfig, construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher
from kubernetes.client import ApiClient

from crucible_dagster.compile.executors import without_token

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


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> K8sRunLauncher:
    """The launcher with the settings that the chart's template makes of the values."""
    values = VALUES["runLauncher"]["config"]["k8sRunLauncher"]
    told = values["runK8sConfig"]
    names = {
        "containerConfig": "container_config",
        "podSpecConfig": "pod_spec_config",
        "jobSpecConfig": "job_spec_config",
    }
    assert told.keys() == names.keys()
    cluster = tmp_path_factory.mktemp("cluster") / "config"
    cluster.write_text(CLUSTER)
    config = {
        "load_incluster_config": False,
        "kubeconfig_file": str(cluster),
        "job_namespace": "crucible",
        "image_pull_policy": values["imagePullPolicy"],
        "service_account_name": "crucible-dagster",
        "dagster_home": VALUES["global"]["dagsterHome"],
        "instance_config_map": "crucible-dagster-instance",
        "postgres_password_secret": VALUES["global"]["postgresqlSecretName"],
        "env_config_maps": values["envConfigMaps"],
        "env_secrets": values["envSecrets"],
        "fail_pod_on_run_failure": values["failPodOnRunFailure"],
        "run_k8s_config": {names[name]: part for name, part in told.items()},
    }
    checked = process_config(K8sRunLauncher.config_type(), copy.deepcopy(config))
    assert checked.success, checked.errors
    return K8sRunLauncher(**checked.value)


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


def test_the_namespace_admits_only_restricted_pods_and_no_traffic_from_outside() -> None:
    namespace, policy = yaml.safe_load_all((FOLDER / "namespace.yaml").read_text())
    labels = read("V1Namespace", namespace)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = read("V1NetworkPolicy", policy)["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]}
