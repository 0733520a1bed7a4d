"""Grafana's dashboard and the alerts, asked of a real Prometheus that reads a real run."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.progress import Pulse
from infra.telemetry.events import Told
from infra.telemetry.metrics import Metrics
from tests.infra.test_telemetry import run
from tests.s3 import free_port
from tests.services import started, until

DEPLOY = Path(__file__).parents[2] / "infra" / "deploy" / "compose"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "sluice.json"
OWN = "sluice_"


def expressions() -> list[tuple[str, str]]:
    """Title and query of each panel."""
    return [
        (panel["title"], target["expr"])
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel["targets"]
    ]


def test_panels_do_not_overlap_and_read_the_provisioned_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    cells: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24 and not own & cells, panel["title"]
        cells |= own
    source = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml"
    (provisioned,) = yaml.safe_load(source.read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {provisioned["uid"]}


def test_every_metric_of_the_dashboard_and_the_alerts_is_one_of_ours(tmp_path: Path) -> None:
    metrics = Metrics()
    told = Told("r", [metrics.__call__])
    run(tmp_path, told)
    told.stage("training", 100, "steps").advance(7, pulse=Pulse("loss 3", 0.1, 0.9, 10**9))
    ours = {sample.name for each in metrics.registry.collect() for sample in each.samples}
    texts = [expression for _, expression in expressions()]
    texts.append((DEPLOY / "alerts.yml").read_text())
    named = {word for text in texts for word in _words(text) if word.startswith(OWN)}
    assert named - ours == set()


def _words(text: str) -> list[str]:
    return "".join(sign if sign.isalnum() or sign == "_" else " " for sign in text).split()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[str]:
    """The URL of a Prometheus with our configuration that reads a run's metrics."""
    if shutil.which("prometheus") is None:
        pytest.skip("Prometheus is not installed (Debian: apt install prometheus)")
    metrics, port = Metrics(), free_port()
    target = metrics.serve("127.0.0.1:0").removeprefix("http://").removesuffix("/metrics")
    configured = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    configured["global"]["scrape_interval"] = "1s"
    configured["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    configured["rule_files"] = [str(DEPLOY / "alerts.yml")]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(configured))
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "prometheus.log"
    with started(log, {"PATH": "/usr/bin:/bin:/usr/local/bin"}, *command):
        told = Told("r", [metrics.__call__])
        line = None
        for second in range(3):  # rates need figures of several moments
            run(tmp_path / str(second), told)
            line = line or told.stage("training", 100, "steps")
            line.advance(7, pulse=Pulse("loss 3", 0.1, 0.9, 10**9))
            until("a reading", lambda: _has(url, "sluice_steps_total"), log)
            time.sleep(1.5)
        yield url
    metrics.close()


def _has(url: str, expression: str) -> bool:
    try:
        return bool(_ask(url, expression))
    except OSError:
        return False


def _ask(url: str, expression: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:
        return json.loads(answer.read())["data"]["result"]


@pytest.mark.slow
def test_every_panel_shows_a_run_and_no_alert_cries(prometheus: str) -> None:
    empty = [title for title, expression in expressions() if not _ask(prometheus, expression)]
    assert [title for title in empty if "Ray" not in title] == []  # whose metrics Ray tells
    with urllib.request.urlopen(f"{prometheus}/api/v1/rules", timeout=10) as answer:
        (group,) = json.loads(answer.read())["data"]["groups"]
    rules = {rule["name"]: rule["state"] for rule in group["rules"]}
    assert set(rules) == {
        "SluiceRunFailed",
        "SluiceStageHangs",
        "SluiceDropsTooMuch",
        "SluiceFunnelMoved",
    }
    assert set(rules.values()) == {"inactive"}


@pytest.mark.slow
def test_alerts_are_rules_that_prometheus_takes() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("Prometheus is not installed (Debian: apt install prometheus)")
    check = ["promtool", "check", "rules", str(DEPLOY / "alerts.yml")]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
