"""The Docker files, checked as far as that can be done without a Docker engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = sorted((ROOT / "docker").glob("*.yaml"))


def services(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text())["services"])


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_files_follow_the_compose_specification(path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_specification_check_notices_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text("services: {vespa: {image: [1], port: 8080}}")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(wrong)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_ports_are_published_on_loopback_only(path: Path) -> None:
    ports = [port for service in services(path).values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_every_mounted_or_built_path_exists(path: Path) -> None:
    for service in services(path).values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (path.parent / source).exists(), source
        if "build" in service:
            context = path.parent / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).is_file()


def test_the_dockerfile_copies_only_what_exists_and_runs_the_command_line() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert sources
    assert all((ROOT / source).exists() for source in sources)
    assert 'ENTRYPOINT ["clipsearch"]' in lines
    assert any(line.startswith("USER ") for line in lines), "the container does not run as root"


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_docker_compose_itself_reads_the_file_where_the_client_has_it(path: Path, tmp_path: Path) -> None:
    docker = shutil.which("docker")
    known = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    if not known:
        assert services(path), "no docker compose here: the specification's schema above is the check"
        return
    done = subprocess.run(
        [str(docker), "compose", "-f", str(path), "config", "-q"],
        env={"MODEL": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


CLUSTER = ROOT / "docker" / "cluster"


def test_the_cluster_names_the_same_nodes_in_compose_hosts_and_services() -> None:
    hosts = {host.findtext("alias"): host.get("name") for host in ET.parse(CLUSTER / "hosts.xml").iter("host")}
    used = {node.get("hostalias") for node in ET.parse(CLUSTER / "services.xml").iter() if node.get("hostalias")}
    assert used == set(hosts)
    nodes = {name: node for name, node in services(ROOT / "docker" / "cluster.yaml").items() if name != "deploy"}
    assert {node["hostname"] for node in nodes.values()} == set(hosts.values())
    assert all(node["networks"]["default"]["aliases"] == [node["hostname"]] for node in nodes.values())
    configured = {",".join(str(hosts[name]) for name in sorted(hosts) if str(name).startswith("config"))}
    assert {node["environment"]["VESPA_CONFIGSERVERS"] for node in nodes.values()} == configured


def test_the_cluster_keeps_what_documents_and_clients_depend_on() -> None:
    one, many = ET.parse(ROOT / "vespa_app" / "services.xml"), ET.parse(CLUSTER / "services.xml")
    for path in ("./content", "./container"):
        assert [node.get("id") for node in many.findall(path)] == [node.get("id") for node in one.findall(path)]
    stemming = "./container/config[@name='ai.vespa.opennlp.open-nlp']/snowballStemmingForEnglish"
    assert many.findtext(stemming) == one.findtext(stemming) == "true"
    keys = [node.get("distribution-key") for node in many.findall("./content/nodes/node")]
    copies = int(many.findtext("./content/min-redundancy") or 0)
    assert 1 < copies < len(keys) == len(set(keys))


def test_the_deploy_puts_the_clusters_files_over_those_for_one_node() -> None:
    volumes = services(ROOT / "docker" / "cluster.yaml")["deploy"]["volumes"]
    over = dict(volume.removesuffix(":ro").split(":") for volume in volumes)
    for name in ("services.xml", "hosts.xml"):
        assert over[f"./cluster/{name}"] == f"/vespa_app/{name}"
        assert (ROOT / "vespa_app" / name).is_file(), "what a file is mounted over has to exist"
