"""What the guide tells receivers in each language to do takes what we send, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.scheduler.domain.webhook import new_secret, secret_text
from services.scheduler.domain.webhook_signature import signed_headers
from tests.support.requirements import need_program

GUIDE = Path(__file__).resolve().parents[4] / "docs" / "how-to" / "receive-webhooks.md"
BODY = '{"größe":1}'.encode()
OLD, NEW = new_secret(), new_secret()
NODE_MAIN = """
const { secret, headers, body } = JSON.parse(require("node:fs").readFileSync(0));
try { console.log(verify(secret, headers, Buffer.from(body))); } catch (error) { console.log(`refused: ${error.message}`); }
"""
GO_MAIN = """
package main

import ("encoding/json"; "fmt"; "net/http"; "os")

func main() {
	decoder := json.NewDecoder(os.Stdin)
	for {
		var in struct { Secret, Body string; Headers map[string]string }
		if decoder.Decode(&in) != nil { return }
		headers := http.Header{}
		for name, value := range in.Headers { headers.Set(name, value) }
		id, err := Verify(in.Secret, headers, []byte(in.Body))
		if err != nil { id = "refused: " + err.Error() }
		fmt.Println(id)
	}
}
"""


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]


def cases() -> list[tuple[str, str]]:
    """Requests as JSON, and whether each is to be taken."""
    now = int(time.time())
    good = dict(signed_headers("t/1", now, BODY, [NEW, OLD]))
    stale = dict(signed_headers("t/1", now - 301, BODY, [NEW]))
    given = [
        ("t/1", NEW, good, BODY),
        ("t/1", OLD, good, BODY),
        ("refused", new_secret(), good, BODY),
        ("refused", NEW, good, BODY + b" "),
        ("refused", NEW, stale, BODY),
        ("refused", NEW, good | {"webhook-signature": good["webhook-signature"].replace("v1,", "v2,")}, BODY),
        ("refused", NEW, good | {"webhook-timestamp": "x"}, BODY),
    ]
    return [
        (result, json.dumps({"secret": secret_text(secret), "headers": headers, "body": body.decode()}))
        for result, secret, headers, body in given
    ]


def test_python() -> None:
    ran = block("python").replace("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=", secret_text(NEW))
    headers = signed_headers("t/1", int(time.time()), BODY, [NEW])
    script = f"""{ran}
import http.client, threading
server = http.server.HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
for body in ({BODY!r}, {BODY!r}, b"other"):
    client = http.client.HTTPConnection("127.0.0.1", server.server_address[1])
    client.request("POST", "/", body, {{**{headers!r}, "ce-type": "guildmesh.webhook.ping.v1"}})
    print(client.getresponse().status)
server.shutdown()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["204", "204", "401"], done.stderr


@pytest.mark.toolchain
def test_node(tmp_path: Path) -> None:
    script = tmp_path / "receiver.js"
    script.write_text(block("javascript") + NODE_MAIN)
    for result, request in cases():
        done = subprocess.run([need_program("node"), script], input=request, capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith(result), (request, done.stdout, done.stderr)


@pytest.mark.toolchain
@pytest.mark.timeout(300)
def test_go(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module receiver\n\ngo 1.21\n")
    (tmp_path / "verify.go").write_text(block("go").replace("package receiver", "package main"))
    (tmp_path / "main.go").write_text(GO_MAIN)
    wanted, requests = zip(*cases(), strict=True)
    done = subprocess.run(
        [need_program("go"), "run", "."], cwd=tmp_path, input="\n".join(requests), capture_output=True, text=True, timeout=280
    )
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(wanted), done.stderr
