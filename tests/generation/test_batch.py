"""Many jobs, on a tiny model with random weights."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import fork
from hypothesis import given
from hypothesis import strategies as st

from layerflow.cli import run
from layerflow.core.errors import UserError
from layerflow.generation import batch
from layerflow.generation import run as generation
from layerflow.generation.jobs import KEYS, parse_object, read_jobs
from layerflow.generation.request import ModelOptions
from layerflow.media import load_layers, write_video

MODEL = ModelOptions(device="cpu", dtype="float32")
PROMPTS = {"foreground": "a red ball", "background": "green hills"}
QUICK = {**PROMPTS, "steps": 1, "formats": ["png"]}


@pytest.fixture
def write_jobs(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of jobs: objects, or lines as they are."""

    def write(*jobs: dict[str, Any] | str) -> Path:
        file = tmp_path / "jobs.jsonl"
        file.write_text("".join((job if isinstance(job, str) else json.dumps(job)) + "\n" for job in jobs))
        return file

    return write


@pytest.fixture
def run_jobs(
    write_jobs: Callable[..., Path], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run jobs into tmp_path / "out" on the tiny model: exit code, stdout, stderr."""

    def call(*jobs: dict[str, Any] | str, options: Sequence[str] = ()) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*words(write_jobs(*jobs), tmp_path / "out", tiny_model), *options])
        return (code, *capsys.readouterr())

    return call


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Foreground prompts of the jobs that were really made, in order."""
    prompts: list[str] = []
    denoise = generation.denoise

    def counted(model: Any, resolved: Any, *rest: Any) -> Any:
        prompts.extend(resolved.request.foreground)
        return denoise(model, resolved, *rest)

    monkeypatch.setattr(batch, "denoise", counted)
    return prompts


def words(jobs: Path, output: Path, model: Path) -> list[str]:
    return ["batch", str(jobs), "-o", str(output), "--model", str(model), "--device", "cpu"]


def jobs_named(*names: str, **values: Any) -> list[dict[str, Any]]:
    return [{**QUICK, **values, "id": name, "foreground": name} for name in names]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "layers.json").read_text("utf-8"))


def manifests(output: Path) -> dict[str, tuple[int, int]]:
    """Jobs that are done; inode and time of a manifest differ when it is written again."""
    stats = {path.parent.name: path.stat() for path in output.glob("*/layers.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def failures(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "failures.jsonl").read_text("utf-8").splitlines()]


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    """Wait until `condition` returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come in time"
        time.sleep(0.01)
    return value


# --- what jobs make ---------------------------------------------------------------------------------------


def test_jobs_run_in_order_with_default_settings(
    run_jobs: Callable, tiny_model: Path, tmp_path: Path, made: list[str]
) -> None:
    full = {**PROMPTS, "id": "full", "seed": 3, "steps": 2, "guidance": 1, "frames": 1, "size": "32x16", "fps": 5}
    code, out, err = run_jobs({**PROMPTS, "foreground": "plain"}, "", {**full, "formats": ["png", "mp4"]})
    assert code == 0, err
    assert made == ["plain", "a red ball"]
    assert out.splitlines() == [str(tmp_path / "out" / name) for name in ("0001", "full")]
    assert "2 done, 0 skipped, 0 failed" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0001", "full"]

    single = tmp_path / "single"
    prompts = ("--foreground", "plain", "--background", "green hills")
    assert run(["generate", *prompts, "--model", str(tiny_model), "--device", "cpu", "-o", str(single)]) == 0
    mine, theirs = manifest(tmp_path / "out" / "0001"), manifest(single)
    assert mine["files"] == theirs["files"]  # sha256 of each among them
    assert set(mine["metadata"]) - set(theirs["metadata"]) == {"job"}
    for key in ("task", "prompts", "blended_prompt", "given", "model", "seed", "steps", "guidance", "dtype"):
        assert mine["metadata"][key] == theirs["metadata"][key]

    index = manifest(tmp_path / "out" / "full")
    assert [index[key] for key in ("frames", "width", "height", "fps")] == [1, 32, 16, 5]
    assert [index["metadata"][key] for key in ("seed", "steps", "guidance")] == [3, 2, 1]
    assert {file["format"] for file in index["files"]} == {"png", "mp4"}


def test_given_files_are_relative_to_the_jobs_file(
    run_jobs: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = torch.randint(0, 256, (2, 3, 16, 16)).float() / 255
    write_video(tmp_path / "clip", clip, format="png")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = run_jobs({"given": {"blended": "clip"}, "formats": ["png"], "steps": 1})
    assert code == 0, err
    folder = tmp_path / "out" / "0001"
    assert torch.equal(load_layers(folder).clips()["blended"], clip)
    assert manifest(folder)["metadata"]["task"] == "decompose"
    assert manifest(folder)["metadata"]["guidance"] == 1


# --- again ------------------------------------------------------------------------------------------------


def test_second_run_does_new_and_changed_jobs_only(run_jobs: Callable, tmp_path: Path, made: list[str]) -> None:
    write_video(tmp_path / "clip.mkv", torch.zeros(2, 3, 16, 16))
    first, second = jobs_named("first", "second")
    third = {**jobs_named("third")[0], "given": {"background": "clip.mkv"}}
    run_jobs(first, second, third)
    before = manifests(tmp_path / "out")

    code, out, err = run_jobs(first, second, third)
    assert code == 0
    assert "0 done, 3 skipped, 0 failed" in err
    assert len(out.splitlines()) == 3
    assert manifests(tmp_path / "out") == before

    made.clear()
    write_video(tmp_path / "clip.mkv", torch.ones(2, 3, 16, 16))  # another clip under the same name
    code, _, err = run_jobs(first, {**second, "seed": 1, "formats": ["webm"]}, third, *jobs_named("fourth"))
    assert code == 0, err
    assert made == ["second", "third", "fourth"]
    assert manifests(tmp_path / "out")["first"] == before["first"]
    assert not (tmp_path / "out" / "second" / "foreground_png").exists()


def test_another_model_repeats_all_jobs(
    run_jobs: Callable, tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_jobs(*jobs_named("a"))
    monkeypatch.setattr(batch.models, "model_hash", lambda folder: "0" * 64)
    assert run_jobs(*jobs_named("a"))[0] == 0
    assert made == ["a", "a"]


def test_job_finished_by_a_dead_worker_is_skipped(
    run_jobs: Callable, write_jobs: Callable, tiny_model: Path, tmp_path: Path, made: list[str]
) -> None:
    run_jobs(*jobs_named("a"))
    before = manifests(tmp_path / "out")
    options = ModelOptions(model=str(tiny_model), device="cpu")
    [job] = read_jobs(write_jobs(*jobs_named("a")), tmp_path / "out")
    sha256 = batch.models.model_hash(tiny_model)
    model = batch.load_model(options, tiny_model, batch.models.model_facts(tiny_model), sha256, "cpu")
    assert batch.attempt(job, model).error == ""
    assert manifests(tmp_path / "out") == before
    assert made == ["a"]

    changed = jobs_named("a", seed=1)
    [job] = read_jobs(write_jobs(*changed), tmp_path / "out")
    for count in range(batch.MOST_DEATHS):
        (tmp_path / "out" / batch.UNFINISHED / "a" / f"host-{count}-x").mkdir(parents=True)
    assert "3 workers died at it" in batch.attempt(job, model).error


# --- what goes wrong --------------------------------------------------------------------------------------


def test_failing_job_does_not_stop_the_batch(run_jobs: Callable, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    bad = {"id": "bad", "given": {"blended": "text.mp4"}, "steps": 1}
    odd = {**QUICK, "id": "odd", "size": "20"}
    code, out, err = run_jobs(*jobs_named("a"), bad, odd, *jobs_named("b"))
    assert code == 1
    assert [Path(line).name for line in out.splitlines()] == ["a", "b"]
    assert "2 done, 0 skipped, 2 failed" in err
    assert "Traceback" not in err
    rows = failures(tmp_path / "out")
    assert [(row["id"], row["line"]) for row in rows] == [("bad", 2), ("odd", 3)]
    assert "cannot be read as a video" in rows[0]["error"]
    assert "must divide by 16" in rows[1]["error"]
    assert all(row["error"] in err for row in rows)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "failures.jsonl"]

    write_video(tmp_path / "text.mp4", torch.zeros(2, 3, 16, 16))
    code, _, err = run_jobs(*jobs_named("a"), bad, *jobs_named("b"))
    assert code == 0, err
    assert "1 done, 2 skipped, 0 failed" in err
    assert not (tmp_path / "out" / "failures.jsonl").exists()


MISTAKES = [
    ({**PROMPTS, "promt": "x"}, "unknown key 'promt'; the keys are id, given, trimap, foreground"),
    ({**PROMPTS, "steps": "many"}, "steps is 'many' but must be a whole number from 1 on"),
    ({**PROMPTS, "steps": 0}, "steps is 0 but must be"),
    ({**PROMPTS, "frames": True}, "frames is True but must be"),
    ({**PROMPTS, "seed": -1}, "seed is -1 but must be a whole number from 0"),
    ({**PROMPTS, "seed": False}, "seed is False but must be"),
    ({**PROMPTS, "guidance": 101}, "guidance is 101 but must be a number from 0 to 100"),
    ({**PROMPTS, "guidance": 10**400}, "guidance is 1000"),
    ({**PROMPTS, "fps": 0}, "fps is 0 but must be a number above 0"),
    ({**PROMPTS, "size": "0x8"}, "size 0x8 is not a size"),
    ({**PROMPTS, "size": 64}, "size is 64 but must be WIDTHxHEIGHT"),
    ({**PROMPTS, "formats": ["avi"]}, "format 'avi' is not known: choose one of prores"),
    ({**PROMPTS, "formats": "webm"}, "formats is 'webm' but must be a list"),
    ({**PROMPTS, "id": "../up"}, "id is '../up' but must be a name"),
    ({**PROMPTS, "id": "Failures.jsonl"}, "id is 'Failures.jsonl' but must be a name"),
    ({**PROMPTS, "id": "GOOD"}, "the id 'GOOD' is taken by line 1"),
    ({**PROMPTS, "blended": "\ud800"}, "but must be text"),
    ({"foreground": "a"}, "no background; a job without given clips needs prompts"),
    ({"given": {"blended": "none.mp4"}}, "none.mp4 but there is no such file"),
    ({"given": {"blended": "x" * 9999}}, "but there is no such file"),
    (
        {"given": {"matte": "in.png"}},
        "names 'matte', which is no clip; the clips are foreground, alpha,",
    ),
    ({"given": dict.fromkeys(("foreground", "alpha", "background", "blended"), "in.png")}, "nothing is left to make"),
    ("{", "it is not JSON: "),
    ("[1]", "it holds [1]; write one JSON object"),
    ('{"id": "a", "id": "b"}', "it names 'id' twice"),
    ('{"guidance": NaN}', "NaN is not JSON"),
    ("[" * 100_000, "it is nested too deeply"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_invalid_line_is_reported_first(
    line: dict[str, Any] | str, message: str, run_jobs: Callable, tmp_path: Path
) -> None:
    code, out, err = run_jobs({**QUICK, "id": "good"}, "", line)
    assert (code, out) == (2, "")
    assert f"jobs.jsonl, line 3: {message}" in err or ("jobs.jsonl, line 3: " in err and message in err)
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers 2 needs --ray"),
        (["--dtype", "int8"], "--dtype is 'int8' but must be one of auto"),
        (["--device", "toaster"], "--device toaster is not known"),
        (["--model", "nope"], "neither bundled (mini) nor a folder"),
        (["-o", "{in}/jobs.jsonl"], "is a file; name a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_option_is_one_sentence(options: list[str], message: str, run_jobs: Callable, tmp_path: Path) -> None:
    code, _, err = run_jobs(QUICK, options=[option.format(**{"in": tmp_path}) for option in options])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_foreign_folders_are_not_replaced(run_jobs: Callable, tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "notes.txt").write_text("mine")
    code, _, err = run_jobs(*jobs_named("a"))
    assert code == 2
    assert "was not made by a job" in err
    code, _, err = run_jobs({"id": "b", "given": {"blended": "out/a/notes.txt"}}, *jobs_named("c"))
    assert code == 1  # no video, but it may be read
    code, _, err = run_jobs({"id": "d", "given": {"blended": "out/c/blended_png"}}, *jobs_named("c"))
    assert code == 2
    assert "lies in the folder of a job" in err


def test_empty_and_missing_files(run_jobs: Callable, tiny_model: Path, tmp_path: Path) -> None:
    code, _, err = run_jobs("", " ")
    assert code == 2
    assert "holds no jobs" in err
    assert run(words(tmp_path, tmp_path / "out", tiny_model)) == 2
    assert run(words(tmp_path / "none.jsonl", tmp_path / "out", tiny_model)) == 2


def test_missing_ray_is_named(run_jobs: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "find_spec", lambda name: None)
    code, _, err = run_jobs(QUICK, options=["--ray", "local"])
    assert code == 2
    assert "pip install 'layerflow[ray]'" in err


# --- any line ---------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["64x64", "webm", "clip.mp4", ".", "1,2@0", "foreground-2=3,4.5@-1", ".@0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["foreground", "alpha", "background", "blended", "alpha-2", "0", "0,4--1", "3-9"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
OBJECTS = st.dictionaries(st.sampled_from(list(KEYS)) | st.text(max_size=8), VALUES, max_size=6)
LINES = (
    st.binary().filter(lambda line: b"\n" not in line)
    | VALUES.map(lambda value: json.dumps(value).encode())
    | OBJECTS.map(lambda value: json.dumps({**PROMPTS, **value}).encode())
)


@pytest.fixture(scope="module")
def lines_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines") / "jobs.jsonl"


@given(line=LINES)
def test_any_line_is_a_job_or_an_error_with_its_number(line: bytes, lines_file: Path) -> None:
    lines_file.write_bytes(json.dumps({**PROMPTS, "id": "the-first"}).encode() + b"\n" + line + b"\n")
    try:
        jobs = read_jobs(lines_file, lines_file.parent / "out")
    except UserError as error:
        assert str(error).startswith(f"{lines_file}, line 2: ")  # noqa: PT017 -- a job is as good an end
    else:
        assert [job.line for job in jobs] == [1, 2][: len(jobs)]
        assert all(job.folder.parent == lines_file.parent / "out" for job in jobs)
        if line.strip():
            parse_object(line)
            assert len(batch.fingerprint(jobs[-1].request, MODEL, "0" * 64)) == 64


# --- killed -----------------------------------------------------------------------------------------------

NAMES = [f"job-{number}" for number in range(6)]


def test_killed_batch_continues(
    run_jobs: Callable, write_jobs: Callable, tiny_model: Path, tmp_path: Path, made: list[str]
) -> None:
    output, jobs = tmp_path / "out", jobs_named(*NAMES, steps=20)
    process = fork(run, words(write_jobs(*jobs), output, tiny_model))
    try:
        wait_for(lambda: len(manifests(output)) >= 2 or not process.is_alive(), 600)
    finally:
        process.kill()
        process.join()
    before = manifests(output)
    assert 2 <= len(before) < len(NAMES)

    code, _, err = run_jobs(*jobs)
    assert code == 0, err
    assert made == [name for name in NAMES if name not in before]
    after = manifests(output)
    assert sorted(after) == NAMES
    assert after.items() >= before.items()
    assert sorted(path.name for path in output.iterdir()) == NAMES


@pytest.fixture
def ray_is_there() -> None:
    if find_spec("ray") is None and not os.environ.get("CI"):
        pytest.skip("Ray is not installed; pip install 'layerflow[ray]'")


@pytest.fixture
def killed_worker(tmp_path: Path) -> Iterator[list[int]]:
    """Kill a worker that runs a job after another job is done; the list gets its process id."""
    output, pids = tmp_path / "out", []
    stop = threading.Event()

    def kill() -> None:
        while not pids and not stop.wait(0.005):
            places = [place for place in output.glob(f"{batch.UNFINISHED}/*/*-*-*") if manifests(output)]
            for place in places[:1]:
                pids.append(int(place.name.split("-")[-2]))
                os.kill(pids[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield pids
    stop.set()
    thread.join()


@pytest.mark.usefixtures("ray_is_there")
def test_ray_survives_a_killed_worker(run_jobs: Callable, tmp_path: Path, killed_worker: list[int]) -> None:
    output = tmp_path / "out"
    seen: dict[str, set[tuple[int, int]]] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            for name, manifest in manifests(output).items():
                seen.setdefault(name, set()).add(manifest)

    watcher = threading.Thread(target=watch)
    watcher.start()
    bad = {"id": "bad", **QUICK, "size": "20"}
    try:
        code, out, err = run_jobs(*jobs_named(*NAMES, steps=20), bad, options=["--ray", "local", "--workers", "2"])
    finally:
        stop.set()
        watcher.join()
    assert code == 1, err  # for the bad one
    assert killed_worker
    assert [row["id"] for row in failures(output)] == ["bad"]
    assert sorted(out.splitlines()) == [str(output / name) for name in NAMES]  # and no line of Ray's
    assert "6 done, 0 skipped, 1 failed" in err
    assert sorted(manifests(output)) == NAMES
    assert all(len(written) == 1 for written in seen.values())  # none was written twice
    assert sorted(path.name for path in output.iterdir()) == ["failures.jsonl", *NAMES]
