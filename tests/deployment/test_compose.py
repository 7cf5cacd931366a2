"""docker-compose.yml: what it promises of its services, and that Docker's own program accepts it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import require_or_skip
from tests.deployment.topology import compose, interpolate, secrets_of_env
from winnow.env import BASE_DIR, VARIABLES, read_environment
from winnow.supervisor import programs

PROFILES = {"pgbouncer", "vllm"}
EMBEDDED_ONLY = {"WINNOW_DEBUG", "WINNOW_PORT", "WINNOW_BIND"}


def config(directory: Path, *arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`docker-compose config` on a copy of the file and of what it mounts, with this `.env`."""
    program = shutil.which("docker-compose")
    if program is None:
        require_or_skip("docker-compose is not installed (Debian: apt install docker-compose)")
    shutil.copy(BASE_DIR / "docker-compose.yml", directory)
    (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in env.items()))
    return subprocess.run(
        [program, *arguments, "config"], cwd=directory, env={"PATH": "/usr/bin:/bin", "HOME": str(directory)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_it_names_every_process():
    services = compose()["services"]
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {"proxy", "web", "worker-cpu", "worker-gpu", "tick", "migrate", "postgres", "redis"}
    assert set(services) - always == PROFILES
    embedded = {program.name for program in programs(read_environment({}))}
    assert {name.removeprefix("worker-") for name in always} >= embedded


def test_it_publishes_the_proxy_alone_and_runs_nothing_as_root():
    services = compose()["services"]
    assert [name for name, service in services.items() if service.get("ports")] == ["proxy"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "healthcheck" in service or name == "migrate", name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
    for name in ("worker-cpu", "worker-gpu"):
        assert services[name]["stop_grace_period"] == "90s"


def test_the_dockerfile_runs_nothing_as_root():
    stages = (BASE_DIR / "Dockerfile").read_text().split("\nFROM ")[1:]
    for name in ("web", "worker", "pgbouncer"):
        (stage,) = (text for text in stages if text.splitlines()[0].endswith(f"AS {name}"))
        assert re.findall(r"^USER (.*)$", stage, flags=re.MULTILINE) == ["10001:10001"], name


def test_the_dockerfile_copies_only_what_there_is_and_is_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (BASE_DIR / "Dockerfile").read_text(), flags=re.MULTILINE)
    ignored = {line.strip() for line in (BASE_DIR / ".dockerignore").read_text().splitlines()}
    for name in (name.rstrip("/") for names in copied for name in names.split()):
        assert (BASE_DIR / name).exists(), name
        assert name not in ignored


def test_what_is_kept_lies_on_named_volumes():
    whole = compose()
    services = interpolate(whole["services"], secrets_of_env())
    for name, place in {"postgres": "/var/lib/postgresql/data", "redis": "/data", "worker-gpu": "/data"}.items():
        (volume,) = (item.partition(":")[0] for item in services[name]["volumes"] if item.split(":")[1] == place)
        assert volume in whole["volumes"], name


def test_the_gpu_worker_reserves_its_gpu():
    (device,) = compose()["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}


def test_no_secret_has_a_default():
    """Each secret is asked for by name, and nothing that looks like one is written out."""
    text = (BASE_DIR / "docker-compose.yml").read_text()
    asked = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)(.*?)\}", text)
    assert {name for name, _ in asked} == {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "WINNOW_SECRET_KEY"}
    assert all(rest.startswith(":?") for _, rest in asked)
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY|AUTH", name):
                assert value.startswith("${"), name


def test_the_application_gets_every_variable_that_a_server_may_set():
    given = set(compose()["services"]["web"]["environment"])
    assert given == {variable.name for variable in VARIABLES} - EMBEDDED_ONLY


def test_the_defaults_of_the_file_are_those_of_the_application():
    defaults = {variable.name: variable.default for variable in VARIABLES}
    text = (BASE_DIR / "docker-compose.yml").read_text()
    for name, default in re.findall(r"^ {4}(WINNOW_\w+): \$\{\1:-(.*?)\}$", text, flags=re.MULTILINE):
        assert default == defaults[name], name


def test_docker_compose_accepts_the_file_and_reads_it_as_we_do(tmp_path):
    """Also what the other tests take for granted: how variables are filled in."""
    env = secrets_of_env()
    done = config(tmp_path, *(f"--profile={name}" for name in sorted(PROFILES)), env=env)
    assert done.returncode == 0, done.stderr
    theirs = yaml.safe_load(done.stdout)["services"]
    ours = interpolate(compose()["services"], env)
    assert set(theirs) == set(ours)
    for name, service in ours.items():
        printed = interpolate(theirs[name], {})  # `config` prints a literal $ as $$
        assert printed.get("command") == service.get("command"), name
        assert printed.get("healthcheck", {}).get("test") == service.get("healthcheck", {}).get("test"), name
        assert {key: str(value) for key, value in printed.get("environment", {}).items()} == {
            key: str(value) for key, value in service.get("environment", {}).items()
        }, name
        assert printed["user"] == service["user"]
        assert printed.get("deploy") == service.get("deploy")


@pytest.mark.parametrize("missing", ["WINNOW_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "WINNOW_HOSTS"])
def test_docker_compose_refuses_to_start_without_a_secret(tmp_path, missing):
    env = secrets_of_env()
    del env[missing]
    done = config(tmp_path, env=env)
    assert done.returncode != 0
    assert "set it in .env" in done.stderr


def test_docker_compose_accepts_the_documented_second_gpu(tmp_path):
    """The lines of docs/DEPLOYMENT.md, put where it says."""
    text = (BASE_DIR / "docs" / "DEPLOYMENT.md").read_text()
    (block,) = re.findall(r"```yaml\n(  worker-gpu-1:.*?)```", text, flags=re.DOTALL)
    done = config(tmp_path, env=secrets_of_env())
    file = tmp_path / "docker-compose.yml"
    file.write_text(file.read_text().replace("\n  tick:\n", f"\n{block}\n  tick:\n"))
    done = subprocess.run(
        ["docker-compose", "config"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    service = yaml.safe_load(done.stdout)["services"]["worker-gpu-1"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["device_ids"] == ["1"]
    assert service["command"] == compose()["services"]["worker-gpu"]["command"]
