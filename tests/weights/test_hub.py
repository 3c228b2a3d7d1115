"""Hub ids: what is fetched, what comes from the cache, and one sentence, soon, where neither has it."""

import hashlib
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from dreamjax.errors import UserError
from dreamjax.weights import hub

COMMIT = "a" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network: the fixture `serve` brings one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put(cache, repository, commit=COMMIT, revision="main", **files):
    """A snapshot as huggingface_hub lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name, text in files.items() or {"config.json": "{}"}.items():
        path = folder / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    return folder / "snapshots" / commit


def test_a_folder_is_itself_also_where_it_could_be_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub.resolve("owner/name").resolve() == (tmp_path / "owner" / "name").resolve()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.resolve("~/owner") == hub.epath.Path(tmp_path / "owner")


def test_a_path_of_an_object_store_is_itself(object_store):
    (object_store / "sd" / "model_index.json").write_text("{}")
    assert hub.resolve(object_store / "sd") == object_store / "sd"
    with pytest.raises(UserError, match="s3://bucket/nothing: no such folder"):
        hub.resolve(object_store / "nothing")


@pytest.mark.parametrize(
    "path",
    ["/no/where", "./owner/name", "../name", "~/nothing", "a/b/c", "name", "owner/", "owner/x.safetensors", "a/../b"],
)
def test_missing_path_is_not_taken_for_a_hub_id(path):
    with pytest.raises(UserError, match="no such folder") as caught:
        hub.resolve(path)
    assert path in str(caught.value)


def test_reports_an_empty_name():
    with pytest.raises(UserError, match="a path is empty"):
        hub.resolve("")


def test_the_cache_answers_without_a_network(cache):
    main = put(cache, "owner/name")
    old = put(cache, "owner/name", "b" * 40, "v1.0")
    assert hub.resolve("owner/name") == hub.epath.Path(main)
    assert hub.resolve("owner/name@v1.0") == hub.epath.Path(old)
    assert hub.resolve(f"owner/name@{'b' * 40}") == hub.epath.Path(old)


@pytest.mark.parametrize("name", ["owner/name", "owner/other@v2", "ow--ner/name"])
def test_reports_a_repository_missing_from_the_cache(name, cache):
    put(cache, "owner/other")
    with pytest.raises(UserError) as caught:
        hub.resolve(name)
    assert str(caught.value) == (
        f"{name} is not a local folder and not in the cache {cache}, and it cannot be fetched (HF_HUB_OFFLINE is set): "
        "name a folder, or fetch it where there is a network (hf download) and copy the cache"
    )


def test_a_hub_that_does_not_answer_is_given_up_soon(cache, monkeypatch, caplog):
    """A server that takes the connection and then says nothing."""
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
    monkeypatch.setattr(hub, "ANSWER_S", 0.3)
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"owner/name is not a local folder .*cannot be fetched \(ReadTimeout: timed out\)"
    ):
        hub.resolve("owner/name")
    found = put(cache, "owner/name")
    assert hub.resolve("owner/name") == hub.epath.Path(found)
    assert "read from the cache as it was fetched last" in caplog.text
    assert time.monotonic() - start < 10
    silent.close()


def test_reports_a_missing_network_connection(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=r"cannot be fetched \(ConnectError: .*\): name a folder, or fetch it where"):
        hub.resolve("owner/name")


def test_reports_a_missing_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"owner/name is not a local folder, and fetching it needs .* huggingface_hub"):
        hub.resolve("owner/name")


# ----------------------------------------------------------------------------------------------- a Hub of a few lines
@pytest.fixture
def serve(monkeypatch):
    """A server of one repository, given its files; returns the list of files that were fetched."""
    servers = []

    def started(names):
        contents = {name: f"content of {name}".encode() for name in names}
        fetched = []

        class Hub(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = self.path.partition("?")[0].strip("/").split("/")
                if parts[:4] == ["api", "models", "owner", "name"] and "tree" in parts:
                    return self.answer(json.dumps([{**entry(n), "type": "file", "path": n} for n in names]).encode())
                if parts[:4] == ["api", "models", "owner", "name"]:
                    listed = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
                    return self.answer(json.dumps(listed).encode())
                name = "/".join(parts[4:])
                if parts[:3] == ["owner", "name", "resolve"] and name in contents:
                    if self.command == "GET":
                        fetched.append(name)
                    etag = hashlib.sha1(contents[name]).hexdigest()
                    return self.answer(contents[name], ETag=f'"{etag}"', **{"X-Repo-Commit": COMMIT})
                return self.answer(b"{}", 404, **{"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET

            def answer(self, data, status=200, **headers):
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            def log_message(self, *args):
                pass

        def entry(name):
            return {"oid": hashlib.sha1(contents[name]).hexdigest(), "size": len(contents[name])}

        server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for module in (constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "ENDPOINT", f"http://127.0.0.1:{server.server_port}", raising=False)
        template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        return fetched

    yield started
    for server in servers:
        server.shutdown()
        server.server_close()


PIPELINE = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "v1-5-pruned.ckpt",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "text_encoder/pytorch_model.bin",
    "vae/diffusion_pytorch_model.bin",
]
FETCHED = {
    "model_index.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "vae/diffusion_pytorch_model.bin",
}


def test_one_set_of_weights_of_each_part_is_fetched_and_stays(serve, monkeypatch):
    fetched = serve(PIPELINE)
    folder = hub.resolve("owner/name")
    there = Path(folder).rglob("*")
    assert {str(path.relative_to(folder)) for path in there if path.is_file()} == FETCHED
    assert (folder / "unet" / "config.json").read_text() == "content of unet/config.json"
    assert set(fetched) == FETCHED
    fetched.clear()
    assert hub.resolve("owner/name") == folder
    assert fetched == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.resolve("owner/name") == folder


def test_a_variant_is_fetched_where_there_is_one(serve):
    fetched = serve(PIPELINE)
    hub.resolve("owner/name", variant="fp16")
    plain = "unet/diffusion_pytorch_model.safetensors"
    assert set(fetched) == FETCHED - {plain} | {"unet/diffusion_pytorch_model.fp16.safetensors"}


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], {"config.json", "model.safetensors"}),
        (["config.json", "pytorch_model.bin", "tf_model.h5"], {"config.json", "pytorch_model.bin"}),
        (["config.json", "eeg[1].pth", "eeg.safetensors"], {"config.json", "eeg.safetensors"}),
        (["config.json", "checkpoint.pth"], {"config.json", "checkpoint.pth"}),
        (["model.fp16.safetensors", "model.fp32.safetensors"], {"model.fp16.safetensors", "model.fp32.safetensors"}),
    ],
)
def test_pickles_are_fetched_only_where_there_is_nothing_else(names, wanted, serve):
    fetched = serve(names)
    hub.resolve("owner/name")
    assert set(fetched) == wanted


def test_reports_an_unknown_hub_id(serve):
    serve(PIPELINE)
    with pytest.raises(
        UserError, match=r"other/name is not a local folder .* \(the Hub has no such repository, or it is"
    ):
        hub.resolve("other/name")
