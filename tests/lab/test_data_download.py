"""Downloads, from a server on this machine that can be told to misbehave."""

import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from gradmem.lab.data import __main__ as command
from gradmem.lab.data import catalogue, download
from gradmem.lab.data.catalogue import DataSet, File
from gradmem.lab.data.download import DownloadError

TEXT = b"".join(b"%d 1:%d\n" % (i % 2, i) for i in range(40_000))
SHA = hashlib.sha256(TEXT).hexdigest()


class Server(HTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/good": TEXT, "/packed.gz": gzip.compress(TEXT), "/bad": TEXT[::-1]}
        self.asked = []  # (path, Range header)
        self.cut = None  # bytes after which the connection is closed, once
        self.ranges = True

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end, server.cut = server.cut, None
        self.wfile.write(data[start : None if end is None else start + end])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def offer(server, monkeypatch):
    """Put a data set of one file with these addresses into the catalogue."""

    def put(*paths, sha256=SHA):
        urls = tuple(path if "://" in path else server.url(path) for path in paths)
        sets = {"small": DataSet("small", (File("libsvm/small", sha256, urls),))}
        for module in (catalogue, download, command):
            monkeypatch.setattr(module, "DATA_SETS", MappingProxyType(sets))

    return put


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("path", "name"), [("/good", "small"), ("/packed.gz", "small.gz")])
def test_a_file_is_fetched_checked_and_not_fetched_again(offer, server, tmp_path, path, name):
    offer(path)
    told = []
    (there,) = download.download("small", tmp_path, lambda *numbers: told.append(numbers))
    assert there == tmp_path / "libsvm" / name
    assert there.read_bytes() == server.files[path]
    assert names(tmp_path) == [name]
    size = len(server.files[path])
    assert told[-1] == ("libsvm/small", size, size)
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told})
    assert download.download("small", tmp_path) == (there,)
    assert len(server.asked) == 1


def test_a_wrong_checksum_leaves_nothing_behind(offer, tmp_path):
    offer("/bad")
    with pytest.raises(DownloadError) as raised:
        download.download("small", tmp_path)
    said = str(raised.value)
    for words in ("libsvm/small could not be fetched", "/bad", SHA, "not the file it should be"):
        assert words in said
    assert names(tmp_path) == []


def test_the_next_address_is_tried(offer, server, tmp_path):
    offer("/bad", "/nowhere", "http://127.0.0.1:1/refused", "/good")
    (there,) = download.download("small", tmp_path)
    assert there.read_bytes() == TEXT
    assert [path for path, _ in server.asked] == ["/bad", "/nowhere", "/good"]
    assert names(tmp_path) == ["small"]


def test_reasons_of_all_addresses_are_said(offer, tmp_path):
    offer("/nowhere", "http://127.0.0.1:1/refused")
    with pytest.raises(DownloadError) as raised:
        download.download("small", tmp_path)
    said = str(raised.value)
    for words in ("answers 404", "no connection", "refused", "Try again later", str(tmp_path)):
        assert words in said


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_continued_by_the_next_download(offer, server, tmp_path, ranges):
    offer("/good")
    server.cut, server.ranges = 100_000, ranges
    with pytest.raises(DownloadError, match=r"ended after 100,000 of 388,890 bytes"):
        download.download("small", tmp_path)
    (part,) = names(tmp_path)
    assert part.endswith(".part")
    (there,) = download.download("small", tmp_path)
    assert there.read_bytes() == TEXT
    assert server.asked == [("/good", None), ("/good", "bytes=100000-")]
    assert names(tmp_path) == ["small"]


def test_a_draft_that_is_already_whole_is_taken(offer, server, tmp_path):
    offer("/good")
    server.cut = 10
    with pytest.raises(DownloadError):
        download.download("small", tmp_path)
    (draft,) = tmp_path.rglob("*.part")
    draft.write_bytes(TEXT)
    (there,) = download.download("small", tmp_path)
    assert there.read_bytes() == TEXT
    assert len(server.asked) == 2


def test_a_draft_of_something_else_is_fetched_anew(offer, server, tmp_path):
    offer("/good")
    server.cut = 10
    with pytest.raises(DownloadError):
        download.download("small", tmp_path)
    (draft,) = tmp_path.rglob("*.part")
    draft.write_bytes(b"something else")
    (there,) = download.download("small", tmp_path)
    assert there.read_bytes() == TEXT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=14-", None]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_a_sentence_and_keeps_what_is_there(offer, tmp_path, monkeypatch):
    offer("/good")
    draft = tmp_path / "libsvm"
    draft.mkdir()
    monkeypatch.setattr(download.zlib, "crc32", lambda data: 0)
    (draft / "small.00000000.part").symlink_to("/dev/full")
    with pytest.raises(DownloadError) as raised:
        download.download("small", tmp_path)
    assert "cannot be written: No space left on device" in str(raised.value)
    assert "goes on from there" in str(raised.value)
    assert not (draft / "small").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(offer, tmp_path):
    offer("/good")
    (tmp_path / "libsvm").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="cannot be written"):
        download.download("small", tmp_path)


def test_a_wrong_file_already_there_is_not_overwritten(offer, server, tmp_path):
    offer("/good")
    there = tmp_path / "libsvm" / "small"
    there.parent.mkdir()
    there.write_bytes(b"mine")
    with pytest.raises(ValueError, match="not the file it should be"):
        download.download("small", tmp_path)
    assert there.read_bytes() == b"mine"
    assert server.asked == []


def test_an_unknown_data_set_names_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'mnits'; did you mean 'mnist'\?"):
        download.download("mnits", tmp_path)


def test_the_command_lists_and_fetches(offer, tmp_path, monkeypatch, capsys):
    offer("/good", "/nowhere")
    monkeypatch.setenv("GRADMEM_DATA", str(tmp_path))
    assert command.main([]) == 0
    listed = capsys.readouterr().out
    assert str(tmp_path) in listed
    assert "small              missing" in listed
    assert command.main(["small"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "libsvm" / "small")
    assert command.main([]) == 0
    assert "small              there" in capsys.readouterr().out
    assert command.main(["large"]) == 1
    assert "unknown data set 'large'" in capsys.readouterr().err
