"""registry/webhooks: one request of a delivery, and the connection that the next one goes over."""

from __future__ import annotations

import select
import socket
import threading

import urllib3

from pallet.registry.config import WebhookConfig
from pallet.registry.webhooks import post


def test_an_answer_whose_body_comes_late_does_not_spoil_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def receive() -> None:
            with listener.accept()[0] as sock, sock.makefile("rb") as file:
                for _ in range(2):
                    while file.readline() not in (b"\r\n", b""):
                        pass
                    file.read(len(b'{"events": []}'))
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
                    select.select([sock], [], [], 0.2)  # a client that does not wait sends its next request
                    sock.sendall(b"done")

        thread = threading.Thread(target=receive)
        thread.start()
        pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False)
        receiver = WebhookConfig(url=f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout_s=10)
        try:
            assert [post(pool, receiver, []) for _ in range(2)] == ["", ""]
        finally:
            pool.clear()
            thread.join()
