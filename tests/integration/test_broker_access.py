"""Which log the settings open, and how a service shows a broker who it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lifecycle.settings import load_settings, with_log
from matching.errors import InvalidInput, MissingExtra, Unavailable
from matching.live import Log, WriteLog
from serving import ServingSettings
from serving.write_log import open_log, stream_name
from tests.brokers import BrokerProcess
from tests.certificates import Authority
from tests.nats_credentials import new_identities


def appended(settings: ServingSettings) -> int:
    opened = open_log(settings, "shop")
    assert opened is not None
    with opened as log:
        log.append([b"a"])
        return log.last_sequence


def test_a_folder_is_a_file_and_an_address_a_stream(tmp_path: Path, broker: BrokerProcess) -> None:
    assert open_log(ServingSettings(), "shop") is None
    folder = ServingSettings(write_log=tmp_path / "log")
    assert appended(folder) == 1
    opened: Log
    with WriteLog.open(tmp_path / "log" / "shop") as opened:
        assert opened.last_sequence == 1
    stream = with_log(folder, broker.url)
    assert (stream.log_folder, stream.write_log) == (None, broker.url)
    assert appended(stream) == 1
    assert appended(with_log(stream, f"nats://127.0.0.1:1,{broker.url}")) == 2  # the first of them does not answer
    assert stream_name("shop a.b/é") == "likewise-shop=20a=2Eb=2F=C3=A9"


@pytest.mark.parametrize(
    "address", ["nats://shop:secret@broker:4222", "nats://", "http://broker", "nats://a:1,b:2", "nats://a/b"]
)
def test_an_address_is_a_broker_s_without_credentials(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InvalidInput, match="expected a folder, or nats://host:port or tls://host:port without credentials"
    ):
        with_log(ServingSettings(), address)
    monkeypatch.setenv("LIKEWISE__SERVING__WRITE_LOG", address)
    with pytest.raises(InvalidInput, match="without credentials") as refused:
        load_settings()
    assert "secret" not in str(refused.value)


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("open sesame\n")
    with BrokerProcess(tmp_path / "broker", 'authorization { user: "shop", password: "open sesame" }') as broker:
        asked = ServingSettings(write_log=broker.url, log_user="shop", log_password_file=secret)
        assert appended(asked) == 1
        with pytest.raises(InvalidInput, match=r"log_password_file .*none: No such file"):
            open_log(asked.model_copy(update={"log_password_file": tmp_path / "none"}), "shop")


def test_a_credentials_file_is_shown(tmp_path: Path) -> None:
    who = new_identities()
    file = tmp_path / "shop.creds"
    file.write_text(who.credentials)
    with BrokerProcess(tmp_path / "broker", who.config) as broker:
        assert appended(ServingSettings(write_log=broker.url, log_credentials_file=file)) == 1
        file.write_text(new_identities().credentials)
        with pytest.raises(Unavailable, match=r"(?i)authorization"):
            open_log(ServingSettings(write_log=broker.url, log_credentials_file=file), "shop")


def test_connections_are_encrypted_both_ways_known(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server, client = ours.certificate("broker"), ours.certificate("shop", is_client=True)
    tls = f'tls {{ cert_file: "{server.chain}", key_file: "{server.key}", ca_file: "{ours.file}", verify: true }}'
    with BrokerProcess(tmp_path / "broker", tls) as broker:
        address = broker.url.replace("nats://", "tls://")
        known = ServingSettings(
            write_log=address, log_ca_file=ours.file, log_certificate_file=client.chain, log_key_file=client.key
        )
        assert appended(known) == 1
        for wrong in ({"log_ca_file": theirs.file}, {"log_certificate_file": None, "log_key_file": None}):
            with pytest.raises(Unavailable, match="the broker is lost"):
                open_log(known.model_copy(update=wrong), "shop")
    with pytest.raises(InvalidInput, match="expected readable PEM files"):
        open_log(known.model_copy(update={"log_ca_file": tmp_path / "none"}), "shop")


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matching.live.stream_log", raising=False)
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(MissingExtra, match=r"pip install likewise\[replicas\]"):
        open_log(ServingSettings(write_log="nats://127.0.0.1:1"), "shop")
