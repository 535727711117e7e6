"""What an operator sets: from flags, from the environment, and never silently ignored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import HttpUrl, SecretStr, ValidationError

from worker.errors import ConfigurationError
from worker.settings import ENVIRONMENT_ONLY, OTHER_NAMES, Settings, read_settings

SET: dict[str, tuple[str, Any]] = {
    "model": ("/models/sd15", "/models/sd15"),
    "model_configuration": ("/models/sd15-configs", "/models/sd15-configs"),
    "model_sha256": ("ab" * 32, "ab" * 32),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("0", 0),
    "worker_id": ("gpu-7", "gpu-7"),
    "queue_capacity": ("5", 5),
    "numerics": ("exact", "exact"),
    "max_rows": ("32", 32),
    "dtype": ("bfloat16", "bfloat16"),
    "weights_dtype": ("float8_e4m3fn", "float8_e4m3fn"),
    "offload": ("model", "model"),
    "compile": ("default", "default"),
    "device_index": ("3", 3),
    "orchestrator_url": ("https://orchestrator:9000/team", HttpUrl("https://orchestrator:9000/team")),
    "advertise_url": ("http://gpu-7:8600", HttpUrl("http://gpu-7:8600")),
    "orchestrator_token": ("its own", SecretStr("its own")),
    "state_dir": ("/var/lib/sd-worker", Path("/var/lib/sd-worker")),
    "retain_s": ("60", 60.0),
    "retain_jobs": ("7", 7),
    "retain_bytes": ("1000000", 1_000_000),
    "drain_s": ("1.5", 1.5),
    "token_file": ("/run/tokens", Path("/run/tokens")),
    "token": ("secret", SecretStr("secret")),
    "metrics_auth": ("true", True),
    "cors_origins": ("https://studio.example, http://localhost:3000", "https://studio.example, http://localhost:3000"),
    "sdapi": ("true", True),
    "embedding_dir": ("/embeddings", Path("/embeddings")),
    "safety_checker": ("/models/safety", Path("/models/safety")),
    "on_unsafe": ("fail", "fail"),
    "c2pa_cert": ("/etc/c2pa/chain.pem", Path("/etc/c2pa/chain.pem")),
    "c2pa_key": ("/etc/c2pa/key.pem", Path("/etc/c2pa/key.pem")),
    "lora_dir": ("/loras", Path("/loras")),
    "lora_cache_bytes": ("1000", 1000),
    "control_dir": ("/controlnets", Path("/controlnets")),
    "upscaler_dir": ("/controlnets", Path("/controlnets")),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "log_prompts": ("true", True),
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("SDW_"):
            monkeypatch.delenv(name)


def read(*arguments: str) -> Settings:
    return read_settings("cpu", list(arguments))


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        read(*arguments)
    assert "\n" not in refused.value.detail
    return refused.value.detail


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_the_defaults_are_safe() -> None:
    settings = read()
    assert (settings.model, settings.host, settings.port) == ("builtin", "127.0.0.1", 8600)
    assert settings.worker_id
    assert settings.token is settings.token_file is None


def test_the_table_is_whole() -> None:
    assert set(SET) == set(Settings.model_fields)


@pytest.mark.parametrize("name", SET)
def test_each_by_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SET[name]
    monkeypatch.setenv("SDW_ORCHESTRATOR_URL", "http://orchestrator")  # without which its token is refused
    monkeypatch.setenv("SDW_" + name.upper(), text)
    assert getattr(read(), name) == value


@pytest.mark.parametrize("name", [name for name in SET if name not in ENVIRONMENT_ONLY])
def test_each_by_flag_and_flags_win(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = SET[name]
    if value is True:
        monkeypatch.setenv("SDW_" + name.upper(), "false")
        assert getattr(read(flag(name)), name) is True
        return
    monkeypatch.setenv("SDW_" + name.upper(), "1")
    assert getattr(read(flag(name), text), name) == value
    assert getattr(read("serve", f"{flag(name)}={text}"), name) == value


def test_the_token_is_no_flag_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unrecognized arguments" in refusal("--token", "secret")
    monkeypatch.setenv("SDW_TOKEN", "secret")
    assert "secret" not in repr(read())


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_token_that_is_empty_does_not_open_the_worker(blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_TOKEN", blank)
    assert refusal() == "SDW_TOKEN is empty"


def test_of_two_sources_of_tokens_none_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_TOKEN", "secret")
    assert refusal("--token-file", "/run/tokens") == "SDW_TOKEN and --token-file exclude each other"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--colour", "red"], "--colour"),
        (["draw"], "draw"),
        (["serve", "serve"], "serve"),
        (["--por", "1"], "--por"),
        (["--port"], "--port"),
        (["--port", "eight"], "--port"),
        (["--port", "65536"], "--port"),
        (["--port", "-1"], "--port"),
        (["--port", "80.5"], "--port"),
        (["--max-rows", "1"], "--max-rows"),
        (["--queue-capacity", "0"], "--queue-capacity"),
        (["--drain-s", "nan"], "--drain-s"),
        (["--drain-s", "-1"], "--drain-s"),
        (["--dtype", "int8"], "--dtype"),
        (["--log-level", "loud"], "--log-level"),
        (["--orchestrator-url", "ftp://files"], "--orchestrator-url"),
        (["--advertise-url", "gpu-7:8600"], "--advertise-url"),
        (["--orchestrator-url", "http://orchestrator/?a=b"], "--orchestrator-url"),
        (["--advertise-url", "http://gpu-7/#a"], "--advertise-url"),
        (["--orchestrator-url", "http://user:secret@orchestrator"], "--orchestrator-url"),
        (["--advertise-url", "http://user@gpu-7"], "--advertise-url"),
        (["--worker-id", "x" * 201], "--worker-id"),
        (["--cors-origins", "studio.example"], "--cors-origins"),
        (["--cors-origins", "https://studio.example/"], "--cors-origins"),
        (["--log-prompts=yes"], "--log-prompts"),
        (["--log-format", "xml"], "--log-format"),
        (["--on-unsafe", "show"], "--on-unsafe"),
        (["--retain-jobs", "0"], "--retain-jobs"),
        (["--state-dir", ""], "--state-dir"),
        (["--lora-dir="], "--lora-dir"),
        (["--worker-id", ""], "--worker-id"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_refused_by_its_name(arguments: list[str], said: str) -> None:
    assert said in refusal(*arguments)


def test_the_orchestrators_address_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    url = HttpUrl("http://orchestrator/")
    assert read("--callback-url", "http://orchestrator").orchestrator_url == url
    monkeypatch.setenv("SDW_CALLBACK_URL", "http://orchestrator")
    assert read().orchestrator_url == url
    assert read("--orchestrator-url", "http://other").orchestrator_url == HttpUrl("http://other/")
    monkeypatch.setenv("SDW_ORCHESTRATOR_URL", "http://other")
    assert refusal() == "SDW_ORCHESTRATOR_URL and SDW_CALLBACK_URL are the same setting"


@pytest.mark.parametrize("token", ["", " ", "two\nlines", "schlüssel", "a\x7f"])
def test_an_orchestrators_token_is_one_that_a_header_can_carry(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_ORCHESTRATOR_TOKEN", token)
    assert "SDW_ORCHESTRATOR_TOKEN" in refusal("--orchestrator-url", "http://orchestrator")


def test_an_empty_path_of_the_environment_is_not_the_folder_one_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_STATE_DIR", "")
    assert refusal() == "--state-dir is empty"


def test_an_orchestrators_token_without_an_orchestrator_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_ORCHESTRATOR_TOKEN", "its own")
    assert "--orchestrator-url" in refusal()


def test_all_faults_at_once() -> None:
    said = refusal("--port", "x", "--max-rows", "0")
    assert "--port" in said
    assert "--max-rows" in said


def test_unknown_and_wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_PORT", "x")
    assert "--port" in refusal()
    monkeypatch.setenv("SDW_PROT", "1")
    monkeypatch.setenv("SDW_COLOUR", "red")
    assert refusal() == "unknown environment variable SDW_COLOUR, SDW_PROT"


def test_what_clients_are_told_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDW_URL", "http://elsewhere:8600")
    assert (read().host, read().port) == ("127.0.0.1", 8600)


def test_origins_are_told_apart_by_commas() -> None:
    assert read("--cors-origins", " https://a.example ,http://b:1,").origins == ["https://a.example", "http://b:1"]
    assert read("--cors-origins", "*").origins == ["*"]
    assert read().origins == []


def test_frozen_once_read() -> None:
    with pytest.raises(ValidationError):
        read().port = 1


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert (f"{flag(name)} " in shown) == (name not in ENVIRONMENT_ONLY), name
        assert field.description


def test_the_readme_lists_every_flag() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    rows = "\n".join(line.split("|")[1] for line in readme.splitlines() if line.startswith("| `--"))
    for name in Settings.model_fields:
        listed = any(f"`{flag(one)}`" in rows for one in (name, OTHER_NAMES.get(name, name)))
        assert listed == (name not in ENVIRONMENT_ONLY), name
