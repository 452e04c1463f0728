"""The Kubernetes files follow the schemas of Kubernetes, the code, and each other."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from lightkube import codecs
from lightkube.core.exceptions import LoadResourceError

from chatlab.settings import PREFIX, Settings, load_settings
from chatlab.web.app import create_app

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
KUSTOMIZATION = cast(
    "dict[str, Any]", yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
)
Document = dict[str, Any]


@cache
def documents() -> dict[str, Document]:
    """Return the files that the kustomization names, by their kind."""
    found = [
        yaml.safe_load((FOLDER / name).read_text("utf-8")) for name in KUSTOMIZATION["resources"]
    ]
    return {document["kind"]: document for document in found}


def variables(file: str) -> dict[str, str]:
    """Return the variables of a file with lines `NAME=value`, as kubectl reads it."""
    lines = (FOLDER / file).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def settings() -> Settings:
    """Return the settings of the pods. A wrong name or value is an error."""
    given = variables("settings.env") | variables("secrets.env.example")
    names = {name.removeprefix(PREFIX).lower() for name in given}
    assert names <= set(Settings.model_fields)
    assert all(name.startswith(PREFIX) for name in given)
    return load_settings(
        **{name.removeprefix(PREFIX).lower(): value for name, value in given.items()}
    )


def pod() -> Document:
    """Return the specification of the pods."""
    return cast("Document", documents()["Deployment"]["spec"]["template"]["spec"])


def container() -> Document:
    """Return their only container."""
    (only,) = pod()["containers"]
    return cast("Document", only)


def follows_the_schema(document: Document) -> bool:
    """Return whether the types are right and every field exists: unknown ones are lost."""
    typed = cast("Any", codecs.from_dict(document))
    return bool(typed.to_dict() == document)


def test_every_file_is_used() -> None:
    """The kustomization names all files of the folder."""
    named = {*KUSTOMIZATION["resources"], "kustomization.yaml", "secrets.env.example"}
    named |= {name for one in KUSTOMIZATION["configMapGenerator"] for name in one["envs"]}
    assert {path.name for path in FOLDER.iterdir()} == named


@pytest.mark.parametrize("kind", documents())
def test_every_file_follows_the_schema_of_kubernetes(kind: str) -> None:
    """The schemas come from the package lightkube-models."""
    assert follows_the_schema(documents()[kind])


def test_the_check_of_the_schema_can_fail() -> None:
    """It finds a misspelt field, a wrong type and an unknown kind."""
    service = documents()["Service"]
    assert not follows_the_schema(service | {"spec": service["spec"] | {"sellector": {}}})
    with pytest.raises(ValueError, match="ports"):
        follows_the_schema(service | {"spec": {"ports": [{"port": "http"}]}})
    with pytest.raises(LoadResourceError):
        follows_the_schema(service | {"kind": "Servize"})


def test_kustomize_builds_all_of_it() -> None:
    """Kubectl has kustomize in it. The result has each file, with the image and the settings."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not on the PATH")
    text = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, check=True
    ).stdout
    built = {document["kind"]: document for document in yaml.safe_load_all(text)}
    assert set(built) == {*documents(), "ConfigMap"}
    assert all(follows_the_schema(document) for document in built.values())
    assert built["ConfigMap"]["data"] == variables("settings.env")
    (only,) = built["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert only["envFrom"][0]["configMapRef"]["name"] == built["ConfigMap"]["metadata"]["name"]
    assert only["image"].startswith("registry.example.org/chatlab:")


def test_three_pods_of_which_two_may_not_be_evicted() -> None:
    """A rollout starts a new pod before it stops an old one."""
    deployment = documents()["Deployment"]["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert documents()["PodDisruptionBudget"]["spec"]["minAvailable"] == 2


def test_all_selectors_select_the_pods() -> None:
    """The service, the budget, the policy and the spread mean the pods of the deployment."""
    labels = documents()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert documents()["Service"]["spec"]["selector"] == labels
    for selector in (
        documents()["Deployment"]["spec"]["selector"],
        documents()["PodDisruptionBudget"]["spec"]["selector"],
        documents()["NetworkPolicy"]["spec"]["podSelector"],
        pod()["topologySpreadConstraints"][0]["labelSelector"],
    ):
        assert selector == {"matchLabels": labels}


def test_ports_are_that_of_the_service() -> None:
    """The pod listens on the port that everything else names."""
    assert container()["ports"] == [{"name": "http", "containerPort": settings().port}]
    assert settings().host == "0.0.0.0"  # noqa: S104 - the pod has a network of its own
    assert documents()["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    (rule,) = documents()["Ingress"]["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "chatlab", "port": {"name": "http"}}
    ingress = documents()["NetworkPolicy"]["spec"]["ingress"][0]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]
    annotations = documents()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings().port)


def test_browsers_may_use_the_name_of_the_ingress() -> None:
    """Otherwise every request would get 421."""
    (rule,) = documents()["Ingress"]["spec"]["rules"]
    assert rule["host"] in settings().allowed_hosts.split(", ")
    assert documents()["Ingress"]["spec"]["tls"][0]["hosts"] == [rule["host"]]


def test_probes_request_existing_routes() -> None:
    """Liveness does not depend on MongoDB, readiness does."""
    paths = {
        name: container()[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert set(paths.values()) <= set(create_app(settings()).openapi()["paths"])
    annotations = documents()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in create_app(settings()).openapi()["paths"]
    assert container()["readinessProbe"]["timeoutSeconds"] > 3  # /readyz needs up to 3 seconds


def test_kubernetes_waits_until_a_pod_has_stopped() -> None:
    """The pod drains first, until it is known everywhere that it is not ready."""
    probe = container()["readinessProbe"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert settings().drain_seconds > noticed_s
    assert pod()["terminationGracePeriodSeconds"] > settings().exit_limit_s


def test_pods_run_without_rights() -> None:
    """Not as root, with a read-only root file system, and without a token of the cluster."""
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["runAsUser"] > 0
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod()["automountServiceAccountToken"]
    assert not pod()["enableServiceLinks"]
    assert set(container()["resources"]["limits"]) == {"cpu", "memory"}


def test_urls_are_in_a_secret_that_is_not_in_the_repository() -> None:
    """The example has both URLs and nothing else; the settings have no URL."""
    secret = set(variables("secrets.env.example"))
    assert secret == {f"{PREFIX}MONGO_URL", f"{PREFIX}REDIS_URL"}
    assert not secret & set(variables("settings.env"))
    assert container()["envFrom"][1] == {"secretRef": {"name": "chatlab"}}
    assert "Secret" not in documents()


def test_pods_may_reach_only_what_they_need() -> None:
    """The ports are those of the DNS and of both URLs."""
    policy = documents()["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    allowed = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    assert allowed == {53, 27017, 6379}
