"""The alerts and the dashboard name metrics, labels and values that exist."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from chatlab import metrics
from chatlab.web.connection_limits import Reason
from chatlab.web.problems import STATUS_OF_CODE

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = cast(
    "list[dict[str, Any]]",
    yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text("utf-8"))["groups"][0]["rules"],
)
DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
OF_PROMETHEUS = {"job", "instance"}  # it adds these labels
VALUES = {
    "part": set(metrics.BREAKERS),
    "code": {*STATUS_OF_CODE, "internal"},
    "reason": {reason.name.lower() for reason in Reason},
    "job": {"chatlab"},
}


def labels_of_metrics() -> dict[str, set[str]]:
    """Return the labels of each series, such as `chatlab_save_seconds_bucket`."""
    found = {"up": set[str]()}
    for metric in REGISTRY._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            name, labels = metric._name, set(metric._labelnames)
            series: dict[str, dict[str, set[str]]] = {
                "counter": {f"{name}_total": labels},
                "gauge": {name: labels},
                "histogram": {
                    f"{name}_bucket": labels | {"le"},
                    f"{name}_count": labels,
                    f"{name}_sum": labels,
                },
            }
            found |= series[str(metric._type)]
    return found


LABELS = labels_of_metrics()


def queries() -> Iterator[tuple[str, str]]:
    """Yield the expression of each alert and each line of the dashboard, with its name."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def problems_of(query: str) -> list[str]:
    """Return what an expression names that does not exist. Raises ValueError if it is no PromQL."""
    problems: list[str] = []
    grouped: set[str] = set()
    available: set[str] = set()

    def visit(part: Any) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            name = str(part.name)
            labels = LABELS.get(name, set()) | OF_PROMETHEUS
            available.update(labels)
            if name not in LABELS:
                problems.append(f"no metric {name}")
            for matcher in part.matchers.matchers:
                values = set(matcher.value.split("|"))
                if matcher.name not in labels or not values <= VALUES[matcher.name]:
                    problems.append(f"{name} has no {matcher.name} {matcher.value}")
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            grouped.update(part.modifier.labels)

    promql_parser.walk(promql_parser.parse(query), visit)
    return problems + [f"no label {label}" for label in sorted(grouped - available)]


def test_everything_in_a_query_exists() -> None:
    """Metrics, labels, and the values that labels are compared with."""
    problems = {(name, query): problems_of(query) for name, query in queries()}
    assert len(problems) > 30
    assert {where: found for where, found in problems.items() if found} == {}


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("chatlab_sweep_total", "no metric chatlab_sweep_total"),
        ("sum by (door) (chatlab_sockets)", "no label door"),
        ('chatlab_breaker_open{part="mongo"}', "chatlab_breaker_open has no part mongo"),
        ('chatlab_sockets{code="x"}', "chatlab_sockets has no code x"),
    ],
)
def test_the_check_of_a_query_can_fail(query: str, problem: str) -> None:
    """It finds a wrong metric, a wrong label and a wrong value."""
    assert problems_of(query) == [problem]
    with pytest.raises(ValueError, match="parenthesis"):
        problems_of(f"rate({query}")


def test_the_texts_name_labels_of_the_query() -> None:
    """`{{ $labels.instance }}` would be empty if the expression had removed the label."""
    for rule in RULES:
        named = set(re.findall(r"\$labels\.(\w+)", yaml.dump(rule["annotations"])))
        kept = re.search(r" by \(([\w, ]+)\)", rule["expr"])
        is_plain = " by " not in rule["expr"] and "sum(" not in rule["expr"]
        labels = set(kept[1].split(", ")) if kept else OF_PROMETHEUS if is_plain else set[str]()
        assert named <= labels, rule["alert"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = re.search(r" by \(([\w, ]+)\)", target["expr"])
            labels = set(kept[1].split(", ")) if kept else OF_PROMETHEUS
            assert named <= labels, panel["title"]


def test_the_wanted_alerts_exist_and_say_what_to_do() -> None:
    """Each alert has a severity and two sentences, and the README says when it fires."""
    readme = (DEPLOY / "README.md").read_text("utf-8")
    names = [rule["alert"] for rule in RULES]
    assert re.findall(r"^\| `(Chatlab\w+)` \|", readme, re.MULTILINE) == names
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_every_alert_is_tested() -> None:
    """Promtool runs these tests. They show that each alert fires."""
    tests = (DEPLOY / "prometheus" / "rules.test.yml").read_text("utf-8")
    assert {rule["alert"] for rule in RULES} == set(re.findall(r'alertname="(\w+)"', tests))


def test_alerts_fire_when_they_should() -> None:
    """Nothing fires for three healthy processes, and everything if everything is wrong."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not on the PATH")
    command = ["promtool", "test", "rules", str(DEPLOY / "prometheus" / "rules.test.yml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_scrapes_every_process_of_the_compose_file() -> None:
    """Each for itself, on its port, and under the job that the queries name."""
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))["services"]
    (job,) = scraped["scrape_configs"]
    assert job["job_name"] == "chatlab"
    assert job["static_configs"][0]["targets"] == [
        f"{name}:{service['environment']['CHATLAB_PORT']}"
        for name, service in compose.items()
        if "build" in service
    ]


def test_the_dashboard_uses_the_data_source_that_is_provisioned() -> None:
    """Each panel has a place and a title of its own."""
    source = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    (found,) = yaml.safe_load(source.read_text("utf-8"))["datasources"]
    graphs = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in graphs} == {found["uid"]}
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in graphs}
    titles = {panel["title"] for panel in graphs}
    assert len(places) == len(titles) == len(graphs)
