"""What the studio lets in and gives out, without a browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from helpers import content_and_style, save_model

pytest.importorskip("gradio", reason="no gradio here: pip install '.[studio]'")

import style.studio
from style.studio import __main__ as command
from style.studio import network_page, networks, server
from vgg_normalize.errors import NetworkError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = content_and_style(tmp_path_factory.mktemp("world"))
    save_model(world / "model")
    return world


@pytest.fixture(scope="module")
def studio(world):
    """A studio as a notebook opens it."""
    studio = style.studio.launch(
        model=str(world / "model"), takes=str(world / "takes"), networks_in=[str(world)]
    )
    yield studio
    studio.close()


def status(url: str, body: object = None) -> int:
    """The status of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_the_page_names_nothing_elsewhere_and_forbids_it(studio):
    with urllib.request.urlopen(studio.url, timeout=30) as answer:
        page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    assert "style studio" in page
    assert "default-src 'self'" in policy and "http" not in policy
    assert "fonts.googleapis" not in page and '"analytics_enabled":false' in page.replace(" ", "")


def test_only_this_machine_is_listened_to(studio):
    assert studio.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("path", ["/etc/passwd", "setup.py", "../../etc/passwd"])
def test_no_file_of_the_machine_is_given_out(studio, path):
    path = str(Path(path).absolute()) if path == "setup.py" else path
    assert status(f"{studio.url}gradio_api/file={path}") in (403, 404)


def test_a_take_is_given_out(studio, world):
    folder = world / "takes" / "take_900"
    folder.mkdir(parents=True)
    (folder / "take_900.cfg").write_text("--size=10\n")
    assert status(f"{studio.url}gradio_api/file={folder / 'take_900.cfg'}") == 200


def test_the_monitor_and_the_documents_of_the_interface_are_off(studio):
    assert status(f"{studio.url}monitoring") in (403, 404)


def test_networks_are_found_by_what_they_hold(world):
    assert networks.of_kind(networks.NORMALIZED, [str(world)]) == [str(world / "model")]
    assert networks.of_kind(networks.NORMALIZED, [str(world / "model")]) == [str(world / "model")]
    assert networks.of_kind(networks.STYLIZER, [str(world)]) == []


def test_two_networks_are_compared_on_a_page(world):
    model = str(world / "model")
    page = network_page.compare(model, model)
    assert "Two networks compared up to scales" in page and "<iframe sandbox" in page
    assert "has no report.html" in network_page.report(model)


def test_a_password_is_asked_for(world, tmp_path):
    studio = style.studio.launch(
        model=str(world / "model"), takes=str(tmp_path / "takes"), password="open sesame"
    )
    try:
        assert status(f"{studio.url}config") == 401
    finally:
        studio.close()


def test_a_port_that_is_taken_is_told_of(studio, world, tmp_path):
    port = int(studio.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(UsageError, match="Expected a free port"):
        style.studio.launch(model=str(world / "model"), takes=str(tmp_path / "takes"), port=port)


def test_a_wrong_network_is_told_of_before_anything_is_opened(tmp_path):
    with pytest.raises(NetworkError, match="none.npz"):
        server.launch(model=str(tmp_path / "none.npz"), takes=str(tmp_path / "takes"))
    assert not (tmp_path / "takes").exists()


def test_the_command_says_who_can_reach_it(monkeypatch, capsys, world, tmp_path):
    class Closed:
        url = "http://nowhere/"

        def close(self) -> None: ...

    def launch(**options) -> Closed:
        asked.append(options)
        stop[0].requested = 2
        return Closed()

    asked, stop = [], []
    monkeypatch.setattr(server, "launch", launch)

    def start(settings, given, handler) -> None:
        stop.append(handler)
        command._start(settings, given, handler)

    from vgg_normalize.runtime.command import Command

    own = Command(**{**vars(command.COMMAND), "work": start})
    assert own.main(["studio", "--host=0.0.0.0", f"--takes={tmp_path}"]) == 130
    told = capsys.readouterr().err
    assert "everybody who reaches this address" in told and "use --password" in told
    assert asked[0]["host"] == "0.0.0.0" and asked[0]["port"] is None
