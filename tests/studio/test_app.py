"""The job API: what it does for those who may, and what it does not for those who may not."""

import json
import os
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ended, serving, until
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from layerflow.core.errors import FieldError
from layerflow.core.schema import CLIPS
from layerflow.generation.request import ModelOptions
from layerflow.media import load_layers, read_video
from layerflow.studio.access_control import COOKIE
from layerflow.studio.app import Settings
from layerflow.studio.entry_points import ModelStart
from layerflow.studio.limits import Limits
from layerflow.studio.server import StudioError, bind, is_local, pick_token

PROMPTS = {"foreground": "a red balloon", "background": "green hills", "steps": 2}
STREAM = {"content-type": "application/octet-stream"}


def make(client: TestClient, **changes: Any) -> dict[str, Any]:
    answer = client.post("/api/jobs", json={**PROMPTS, **changes})
    assert answer.status_code == 202, answer.text
    return ended(client, answer.json()["id"])


@pytest.fixture(scope="module")
def done(studio: TestClient) -> dict[str, Any]:
    job = make(studio)
    assert job["state"] == "done", job["error"]
    return job


def upload(client: TestClient, data: bytes) -> dict[str, Any]:
    answer = client.post("/api/uploads", content=data, headers=STREAM)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_job_generates_layers(studio: TestClient, done: dict[str, Any], tmp_path: Path) -> None:
    assert done["result"]["task"] == "generate"
    assert done["result"]["sheets"] == ["alpha", "background", "blended", "foreground"]
    assert done["result"]["clips"] == ["foreground", "alpha", "background", "blended"]
    url = f"/api/jobs/{done['id']}"
    for name in studio.get(f"{url}/files").json():
        (tmp_path / name).write_bytes(studio.get(f"{url}/files/{name}").content)
    layers = load_layers(tmp_path)
    (tmp_path / "sheet.png").write_bytes(studio.get(f"{url}/sheets/background.png").content)
    sheet, where = read_video(tmp_path / "sheet.png"), studio.get(f"{url}/sheets/background.json").json()
    for n, entry in enumerate(where["frames"]):
        x, y, w, h = (entry["frame"][key] for key in "xywh")
        shown = sheet.colour[0, :, y : y + h, x : x + w]
        assert layers.background is not None
        torch.testing.assert_close(shown, layers.background[n], atol=0.5 / 255 + 1e-4, rtol=0)


def test_seed_decides_the_layers(studio: TestClient, done: dict[str, Any]) -> None:
    def digests(job: dict[str, Any]) -> list[str]:
        index = studio.get(f"/api/jobs/{job['id']}/files/layers.json").json()
        return [file["sha256"] for file in index["files"]]

    assert digests(make(studio)) == digests(done)
    assert digests(make(studio, seed=1)) != digests(done)


def test_progress_has_preview_and_time_left(studio: TestClient) -> None:
    id = studio.post("/api/jobs", json={**PROMPTS, "steps": 60}).json()["id"]
    progress = until(
        lambda: (job := studio.get(f"/api/jobs/{id}").json())["progress"].get("preview") and job["progress"]
    )
    assert progress["steps"] == 60
    assert 0 < progress["step"] <= 60
    assert progress["seconds_left"] is None or progress["seconds_left"] >= 0
    preview = studio.get(f"/api/jobs/{id}/preview")
    assert preview.headers["content-type"] == "image/webp"
    assert preview.headers["cache-control"] == "no-store"
    studio.post(f"/api/jobs/{id}/cancel")
    ended(studio, id)


def test_uploaded_clip_is_decomposed(studio: TestClient, clips: dict[str, bytes]) -> None:
    facts = upload(studio, clips["opaque.mp4"])
    job = make(studio, foreground="", background="", given={"blended": {"upload": facts["id"]}})
    assert (job["state"], job["result"]["task"]) == ("done", "decompose"), job["error"]
    assert job["result"]["given"] == ["blended"]
    assert "took the first 2 frames" in " ".join(job["result"]["notes"])
    described = studio.get(f"/api/jobs/{job['id']}/files/layers.json").text
    assert str(studio.app.state.studio.store.folder) not in described  # type: ignore[attr-defined]
    job = make(studio, given={"blended": {"upload": facts["id"]}}, frames=6)
    assert job["error"] == "given/blended.mkv has 4 frames, fewer than frames 6"


def test_clips_of_another_job_can_be_given(studio: TestClient, done: dict[str, Any]) -> None:
    given = {clip: {"job": done["id"]} for clip in ("foreground", "alpha")}
    job = make(studio, foreground="", background="a beach", given=given)
    assert (job["state"], job["result"]["task"]) == ("done", "add-background"), job["error"]
    sheets = [studio.get(f"/api/jobs/{one['id']}/sheets/alpha.png").content for one in (done, job)]
    assert sheets[0] == sheets[1]
    again = make(studio, foreground="", given={"background": {"job": job["id"], "clip": "background"}})
    assert again["result"]["task"] == "add-foreground"


def frames_of(client: TestClient, job: dict[str, Any], layer: str, folder: Path) -> Any:
    """Return the colour and alpha of a job's layer, as stored."""
    path = folder / f"{job['id']}-{layer}.mkv"
    path.write_bytes(client.get(f"/api/jobs/{job['id']}/files/{layer}.mkv").content)
    return read_video(path)


def test_frames_of_uploads_and_other_jobs_are_kept(
    studio: TestClient, done: dict[str, Any], clips: dict[str, bytes], tmp_path: Path
) -> None:
    matte = upload(studio, clips["still.png"])["id"]
    given = {"foreground": {"1": {"upload": matte}}, "background": {"0": {"job": done["id"]}}}
    job = make(studio, given=given)
    assert (job["state"], job["result"]["task"]) == ("done", "complete"), job["error"]
    kept, before = (frames_of(studio, one, "background", tmp_path) for one in (job, done))
    assert torch.equal(kept.colour[0], before.colour[0])
    assert not torch.equal(kept.colour[1], before.colour[1])
    alpha = frames_of(studio, job, "foreground", tmp_path).alpha
    assert alpha[1].max() == 1
    assert alpha[1, 0, 0].max() == 0
    metadata = studio.get(f"/api/jobs/{job['id']}/files/layers.json").json()["metadata"]
    assert [(one["file"], one["frames"]) for one in metadata["given"]] == [
        ("given/foreground.0.mkv", [1]), ("given/background.0.mkv", [0]),
    ]  # fmt: skip
    assert "--given foreground=given/foreground.0.mkv@1 " in metadata["command"]


def test_clicks_and_trimaps_are_taken(studio: TestClient, clips: dict[str, bytes], tmp_path: Path) -> None:
    shot, trimap = (upload(studio, data)["id"] for data in (clips["opaque.mp4"], grey_png()))
    given = {"blended": {"upload": shot}}
    plain = make(studio, foreground="", background="", given=given)
    changes = {"object": ["16,12@0"], "not_object": ["8,2.5@-1"], "trimap": {"alpha": {"1": {"upload": trimap}}}}
    job = make(studio, foreground="", background="", given=given, **changes)
    assert job["state"] == "done", job["error"]
    assert "this model was not trained with clicks and trimaps; it may follow them badly" in job["result"]["notes"]
    mattes = [frames_of(studio, one, "foreground", tmp_path).alpha for one in (plain, job)]
    assert not torch.equal(*mattes)
    metadata = studio.get(f"/api/jobs/{job['id']}/files/layers.json").json()["metadata"]
    assert (metadata["object"], metadata["trimap"][0]["file"]) == (["16,12@0"], "given/trimap.alpha.0.mkv")
    job = make(studio, given=given, object=["1,1@0"])
    assert job["error"].startswith("object 1,1@0 lies outside of the part of given/blended.mkv that is used")


def grey_png() -> bytes:
    picture = torch.full((1, 3, 24, 32), 0.5)
    picture[:, :, 8:16, 8:16] = 1
    file = BytesIO()
    Image.fromarray((picture[0] * 255).byte().permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def test_job_schema_has_frames_and_clicks(studio: TestClient) -> None:
    schemas = studio.get("/api/openapi.json").json()["components"]["schemas"]
    properties = schemas["JobRequest"]["properties"]
    assert properties["object"]["maxItems"] == 100
    assert [kind.get("$ref") or kind["type"] for kind in properties["given"]["additionalProperties"]["oneOf"]] == [
        "#/components/schemas/Given", "object",
    ]  # fmt: skip


def test_several_foregrounds_are_made_viewed_and_reordered(tmp_path: Path, tiny_stack: Path) -> None:
    with serving(Settings(tmp_path / "studio", ModelStart(ModelOptions(model=str(tiny_stack))))) as client:
        job = make(client, foreground=["a fox", "a dog"])
        assert job["state"] == "done", job["error"]
        clips = ["foreground", "alpha", "foreground-2", "alpha-2", "background", "blended"]
        assert job["result"]["clips"] == clips
        assert job["result"]["sheets"] == sorted(clips)
        assert job["result"]["prompts"]["foreground-2"] == "a dog"
        for name in clips:
            assert client.get(f"/api/jobs/{job['id']}/sheets/{name}.png").status_code == 200
        given = {"foreground-2": {"0": {"job": job["id"], "clip": "foreground"}}}
        again = make(client, foreground="", background="", given=given)
        assert again["state"] == "done", again["error"]
        kept, before = (frames_of(client, *names, tmp_path) for names in ((again, "foreground-2"), (job, "foreground")))
        assert torch.equal(kept.colour[0], before.colour[0])
        pictures = []
        for order in (None, ["foreground", "foreground-2"], ["foreground-2", "foreground"]):
            url = client.post(f"/api/jobs/{job['id']}/exports", json={"preset": "web", "order": order}).json()["url"]
            with zipfile.ZipFile(BytesIO(client.get(url).content)) as archive:
                names = [name for name in archive.namelist() if name.endswith("blended.webp")]
                pictures.append([archive.read(name) for name in names])
        assert pictures[0] == pictures[1] != pictures[2]
        answer = client.post(f"/api/jobs/{job['id']}/exports", json={"preset": "web", "order": ["foreground"]})
        assert answer.status_code == 422
        assert "order is foreground but must name each of foreground, foreground-2 once" in answer.json()["error"]


@pytest.mark.parametrize("preset", ["editors", "web", "game", "compositing"])
def test_layers_are_exported_by_each_preset(studio: TestClient, done: dict[str, Any], preset: str) -> None:
    for package in {"editors": ["opentimelineio"], "compositing": ["OpenEXR"]}.get(preset, []):
        pytest.importorskip(package)
    answer = studio.post(f"/api/jobs/{done['id']}/exports", json={"preset": preset, "size": "32x32"})
    assert answer.status_code == 201, answer.text
    fetched = studio.get(answer.json()["url"])
    assert f'filename="layerflow-{preset}.zip"' in fetched.headers["content-disposition"]
    with zipfile.ZipFile(BytesIO(fetched.content)) as archive:
        names = archive.namelist()
        record = json.loads(archive.read(f"layerflow-{preset}/delivery.json"))
    assert (record["preset"], record["width"]) == (preset, 32)
    assert all(any(name.startswith(f"layerflow-{preset}/{file['name']}") for name in names) for file in record["files"])


def test_failed_export_says_why_and_leaves_no_file(studio: TestClient, done: dict[str, Any]) -> None:
    answer = studio.post(f"/api/jobs/{done['id']}/exports", json={"preset": "editors", "timecode": "00:00:00:50"})
    assert answer.status_code == 422
    assert "timecode 00:00:00:50" in answer.json()["error"]
    exports = studio.app.state.studio.store.jobs / done["id"] / "exports"  # type: ignore[attr-defined]
    assert not [path for path in exports.iterdir() if path.name.startswith(".")]


def test_jobs_are_listed_by_session_and_removed(studio: TestClient) -> None:
    job = make(studio, session="alice")
    assert [one["id"] for one in studio.get("/api/jobs?session=alice").json()] == [job["id"]]
    assert studio.delete(f"/api/jobs/{job['id']}").status_code == 200
    assert studio.get(f"/api/jobs/{job['id']}").status_code == 404
    assert studio.get("/api/jobs?session=alice").json() == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"foreground": "a"}, "prompts for foreground and background are needed"),
        ({**PROMPTS, "seed": -1}, "seed"),
        ({**PROMPTS, "steps": "5"}, "steps"),
        ({**PROMPTS, "size": "0x5"}, "size"),
        ({**PROMPTS, "model": "other"}, "model"),
        ({**PROMPTS, "foreground": "a" * 1001}, "foreground"),
        ({**PROMPTS, "foreground": "a\0b"}, "NUL"),
        ({"given": {"sky": {"upload": "a" * 32}}}, "given"),
        ({"given": {"blended": {"upload": "../../etc/passwd"}}}, "given"),
        ({"given": {"blended": {}}}, "either an upload or a job"),
        ({"given": {"blended": {"upload": "a" * 32}}}, "no such upload"),
        ({"given": {"blended": {"job": "a" * 32}}}, "no such job"),
        ({**PROMPTS, "given": {"blended": {"first": {"job": "a" * 32}}}}, "given.blended.frames.first"),
        ({**PROMPTS, "given": {"blended": {"0": {}}}}, "either an upload or a job"),
        ({**PROMPTS, "given": {"alpha": {str(n): {"job": "a" * 32} for n in range(101)}}}, "at most 100"),
        (
            {**PROMPTS, "given": {clip: {"job": "a" * 32} for clip in CLIPS}},
            "nothing is left to make",
        ),
        ({**PROMPTS, "trimap": {"blended": {"0": {"job": "a" * 32}}}}, "trimap"),
        ({**PROMPTS, "object": ["/etc/passwd@0"]}, "object"),
        ({**PROMPTS, "object": ["1,1@0"] * 101}, "object"),
        ({**PROMPTS, "foreground": ["a"] * 9}, "foreground"),
        ({"foreground": ["", " "], "background": "b"}, "prompts for foreground and background are needed"),
    ],
)
def test_invalid_requests_are_refused(studio: TestClient, request_: dict[str, Any], message: str) -> None:
    answer = studio.post("/api/jobs", json=request_)
    assert answer.status_code in (404, 422)
    assert message in answer.json()["error"]


def test_job_that_the_model_refuses_says_why(studio: TestClient) -> None:
    job = make(studio, size="17x17")
    assert job["state"] == "failed"
    assert "16x16" in job["error"]
    assert "--" not in job["error"]
    job = make(studio, frames=400)
    assert "go beyond" in job["error"] or "are more than" in job["error"]


def test_foreground_without_alpha_is_refused_at_once(studio: TestClient, clips: dict[str, bytes]) -> None:
    facts = upload(studio, clips["opaque.mp4"])
    answer = studio.post("/api/jobs", json={**PROMPTS, "given": {"foreground": {"upload": facts["id"]}}})
    assert "needs transparency" in answer.json()["error"]
    source = {"upload": facts["id"]}
    job = make(studio, given={"foreground": {"0": source}, "alpha": {"0": source}})
    assert job["state"] == "done", job["error"]


# The door


@pytest.mark.parametrize(
    "path",
    [
        "/api/jobs/..%2f..%2fetc/files", "/api/jobs/{id}/files/..%2fjob.json", "/api/jobs/{id}/files/job.json",
        "/api/jobs/{id}/exports/..%2f..%2fjob.json", "/api/jobs/{id}/exports/%2fetc%2fpasswd",
        "/api/jobs/{id}/sheets/..%2fjob.json", "/api/jobs/{id}/sheets/foreground.py", "/static/..%2fapp.py",
        "/static/../app.py", "/gradio/gradio_api/file=/etc/passwd",
        "/gradio/gradio_api/file={work}/studio.lock",
        "/gradio/gradio_api/file/etc/passwd", "/gradio/gradio_api/proxy=http://example.org/", "/gradio/",
        "/gradio/runs",
        "/gradio/static/../../../etc/passwd", "/gradio/gradio_api/upload_progress", "/docs",
        "/gradio/gradio_api/deep_link",
        "/gradio/gradio_api/stream/a/b/c/playlist.m3u8", "/gradio/gradio_api/runs",
    ],
)  # fmt: skip
def test_paths_stay_in_the_work_folder(studio: TestClient, done: dict[str, Any], path: str) -> None:
    work = studio.app.state.studio.store.folder  # type: ignore[attr-defined]
    answer = studio.get(path.format(id=done["id"], work=work))
    assert answer.status_code in (404, 405, 422), answer.text[:200]
    assert "root:" not in answer.text
    assert str(work) not in answer.text


def test_gradio_refuses_files(studio: TestClient) -> None:
    answer = studio.post("/gradio/gradio_api/upload", files={"files": ("../../evil.py", b"print()")})
    assert answer.status_code == 404
    answer = studio.post("/gradio/gradio_api/component_server", json={"fn_name": "ls", "data": ["/"]})
    assert answer.status_code == 404


def test_links_in_a_job_folder_are_not_followed(studio: TestClient, tmp_path: Path) -> None:
    job = make(studio)
    place = studio.app.state.studio.store.jobs / job["id"]  # type: ignore[attr-defined]
    (tmp_path / "secret").write_text("secret")
    (place / "layers" / "secret").symlink_to(tmp_path / "secret")
    assert studio.get(f"/api/jobs/{job['id']}/files/secret").status_code == 404


def test_security_headers(studio: TestClient) -> None:
    for path in ("/", "/api/studio", "/api/jobs/none", "/static/nothing"):
        headers = studio.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_requests_of_other_origins_are_refused(studio: TestClient) -> None:
    assert studio.post("/api/jobs", json=PROMPTS, headers={"origin": "http://evil.example"}).status_code == 403
    assert studio.get("/api/jobs", headers={"host": "evil.example"}).status_code == 421
    assert studio.get("/api/studio", headers={"origin": "http://localhost"}).status_code == 200
    assert studio.post("/api/uploads", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_large_bodies_are_refused(studio: TestClient) -> None:
    assert studio.post("/api/jobs", content=b" " * 70000).status_code in (400, 413)
    assert studio.post("/gradio/gradio_api/call/run", content=b" " * 70000).status_code in (400, 413)
    answer = studio.post("/api/uploads", content=b"\x89PNG\r\n\x1a\n" + bytes(2**20), headers=STREAM)
    assert "larger than" in answer.json()["error"]


def test_every_route_requires_the_token(tmp_path: Path, tiny_model: Path) -> None:
    token = "a-token-of-some-length"
    with serving(
        Settings(tmp_path, ModelStart(ModelOptions(model=str(tiny_model))), token=token), host="studio.example"
    ) as client:
        for method, path in (("GET", "/api/studio"), ("POST", "/api/jobs"), ("GET", "/static/main.js"), ("GET", "/")):
            assert client.request(method, path).status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        assert client.get("/api/studio", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/api/studio", headers={"cookie": f"{COOKIE}=é".encode()}).status_code == 401
        assert client.get("/api/studio", headers={"authorization": f"Bearer {token}"}).status_code == 200
        entered = client.get(f"/?token={token}", follow_redirects=False)
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "samesite=strict" in entered.headers["set-cookie"].lower()
        assert client.get("/api/studio").status_code == 200


def test_public_address_gets_a_token() -> None:
    assert pick_token("127.0.0.1", None) == ""
    assert pick_token("localhost", None) == ""
    assert len(pick_token("0.0.0.0", None)) >= 32
    assert pick_token("0.0.0.0", None) != pick_token("0.0.0.0", None)
    assert pick_token("127.0.0.1", "sixteen-letters-") == "sixteen-letters-"
    assert not is_local("0.0.0.0")
    assert not is_local("example.org")
    with pytest.raises(FieldError, match="16 or more"):
        pick_token("127.0.0.1", "short")


def test_occupied_port_is_an_error() -> None:
    with bind("127.0.0.1", 0) as listening, pytest.raises(StudioError, match="choose another `port`"):
        bind("127.0.0.1", listening.getsockname()[1])


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from layerflow.cli import run, studio

    monkeypatch.setattr(studio, "find_spec", lambda name: None if name == "gradio" else object())
    assert run(["studio"]) == 2
    assert "pip install 'layerflow[studio]'" in capsys.readouterr().err


OUTBOUND = """
import sys
from pathlib import Path

def watch(event, details):
    if event == "socket.connect" and isinstance(details[1], tuple) and details[1][0] not in ("127.0.0.1", "::1"):
        print("connects to", details[1]); sys.stdout.flush()
    if event == "socket.getaddrinfo" and details[0] not in (None, "localhost", "127.0.0.1", "testserver"):
        print("asks for", details[0]); sys.stdout.flush()

sys.addaudithook(watch)
from fastapi.testclient import TestClient
from layerflow.studio.app import Settings, create_app
from layerflow.studio.entry_points import ModelStart

app = create_app(Settings(Path(sys.argv[1]), ModelStart()))
with TestClient(app, base_url="http://localhost") as client:
    assert client.get("/").status_code == 200
    assert client.get("/gradio/config").status_code == 200
    assert client.get("/gradio/gradio_api/info").status_code == 200
print("quiet")
"""


def test_studio_connects_to_no_other_host(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRADIO")}
    ran = subprocess.run(
        [sys.executable, "-c", OUTBOUND, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert ran.stdout == "quiet\n", ran.stdout + ran.stderr


# Anything at all


KEYS = (
    "foreground", "background", "blended", "given", "seed", "steps", "guidance", "frames", "size", "fps", "session",
    "object", "not_object", "trimap",
)  # fmt: skip
NAMES = st.text(max_size=8) | st.sampled_from(["blended", "alpha", "alpha-2", "0", "0-3", "-1", "upload", "job"])
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1,2@0", "a" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
ROUTES = (
    "/api/jobs", "/api/jobs/{}", "/api/jobs/{}/cancel", "/api/jobs/{}/preview", "/api/jobs/{}/sheets/{}",
    "/api/jobs/{}/files", "/api/jobs/{}/files/{}", "/api/jobs/{}/exports", "/api/jobs/{}/exports/{}", "/api/uploads",
    "/api/studio", "/static/{}", "/gradio/{}", "/gradio/gradio_api/call/{}", "/{}",
)  # fmt: skip
FUZZ = settings(
    max_examples=int(os.environ.get("LAYERFLOW_FUZZ", "200")), deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A studio whose queue takes nothing, so that thousands of requests cost nothing."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with serving(Settings(folder, ModelStart(), limits=Limits(queue=0)), with_gradio=True) as client:
        yield client


@FUZZ
@given(st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=5) | ANYTHING)
def test_any_json_is_a_job_or_an_error(idle: TestClient, body: Any) -> None:
    answer = idle.post("/api/jobs", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (404, 422, 503)
    assert isinstance(answer.json()["error"], str)


@FUZZ
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS"]), st.sampled_from(ROUTES),
    st.text(max_size=30) | st.sampled_from(["..", "%2e%2e%2f", "a" * 32]), st.binary(max_size=200),
    st.sampled_from(["application/json", "application/octet-stream", "text/html", ""]),
)  # fmt: skip
def test_any_request_gets_an_answer(
    idle: TestClient, method: str, route: str, text: str, body: bytes, kind: str
) -> None:
    from urllib.parse import quote

    path = route.replace("{}", quote(text, safe=""))
    answer = idle.request(method, path, content=body, headers={"content-type": kind})
    assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.text[:200])


GRADIO_KEYS = ("data", "fn_index", "session_hash", "event_id", "event_data", "trigger_id", "simple_format")


@FUZZ
@given(
    st.sampled_from(["call/run", "call/job", "call/cancel", "call/none", "queue/join"]),
    st.dictionaries(st.sampled_from(GRADIO_KEYS), ANYTHING, max_size=5) | ANYTHING,
)
def test_any_json_gets_an_answer_from_gradio(idle: TestClient, route: str, body: Any) -> None:
    answer = idle.post(
        f"/gradio/gradio_api/{route}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code < 500 or answer.status_code == 503, (answer.status_code, answer.text[:200])


def test_after_fuzzing_no_file_is_left(idle: TestClient) -> None:
    folder = idle.app.state.studio.store.folder  # type: ignore[attr-defined]
    assert sorted(path.name for path in folder.rglob("*")) == ["jobs", "studio.lock", "uploads"]
    assert idle.get("/api/studio").json()["queued"] == 0


def test_preview_is_sent_whole_though_a_newer_one_takes_its_place(studio: TestClient) -> None:
    """A response that looks up the size first would promise more than it sends."""
    id = make(studio)["id"]
    (studio.app.state.studio.store.place(studio.app.state.studio.queue.get(id)) / "preview.webp").write_bytes(b"older")
    answer = studio.get(f"/api/jobs/{id}/preview")
    assert answer.content == b"older"
    assert answer.headers["content-length"] == "5"
    assert "etag" not in answer.headers  # which would be of a file that may have gone
