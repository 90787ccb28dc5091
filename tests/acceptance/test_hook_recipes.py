"""The guide's recipes for mail and chat, typed word for word, reach servers that listen."""

import json
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_string, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from holdfast.guide import page
from pages import run_blocks, section

SECTION = "Mail, chat, a report at the end"


class Mails(socketserver.ThreadingTCPServer):
    """Takes mail, as much of SMTP as a client needs."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: list[str] = []
        super().__init__(("127.0.0.1", 0), _Mail)


class _Mail(socketserver.StreamRequestHandler):
    server: Mails

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line.strip().upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                found = b""
                while (part := self.rfile.readline()) not in (b".\r\n", b""):
                    found += part
                self.server.taken.append(found.decode())
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 taken\r\n")
            if verb == b"QUIT":
                return


class Posts(ThreadingHTTPServer):
    """Takes what is posted: by path, the body and one header."""

    daemon_threads = True

    def __init__(self) -> None:
        self.taken: dict[str, tuple[str, str | None]] = {}
        super().__init__(("127.0.0.1", 0), _Post)


class _Post(BaseHTTPRequestHandler):
    server: Posts

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.taken[self.path] = body, self.headers["Title"]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Its port, while it serves."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="a recipe needs curl")
def test_the_recipes_reach_those_who_are_to_be_told(tmp_path: Path, monkeypatch):
    """A mail with the reasons, a message in a chat, a notification with a title."""
    mails, posts = Mails(), Posts()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(mails) as smtp, serving(posts) as http:
        for name, value in {
            "MAIL_TO": "me@example.org",
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(smtp),
            "CHAT_URL": f"http://127.0.0.1:{http}/chat",
            "NTFY_URL": f"http://127.0.0.1:{http}/ntfy",
        }.items():
            monkeypatch.setenv(name, value)
        run_blocks(section(page("recipes"), SECTION), tmp_path)
    (mail,) = (message_from_string(each, policy=policy.default) for each in mails.taken)
    assert mail["Subject"] == "told: failed"
    assert mail["To"] == "me@example.org"
    words = mail.get_content().replace("\r\n", "\n")
    assert "failed: 1 of 2 processes failed: 1" in words
    assert "process 1: exit code 3\nno data\n" in words
    chat, title = posts.taken["/chat"]
    assert title is None
    assert json.loads(chat)["text"].endswith("failed: 1 of 2 processes failed: 1")
    body, title = posts.taken["/ntfy"]
    assert title == "told"
    assert body == json.loads(chat)["text"]
