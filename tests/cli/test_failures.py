"""What goes wrong on the command line ends in one line that says what to do, in no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_commands import state, tiny

from flowrob import flows, zoo
from flowrob.cli import main, runs

HERE = [sys.executable, "-m", "flowrob"]


def said(capsys) -> str:
    """The one line on stderr."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flowrob")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def places(tmp_path) -> dict[str, Path]:
    """Paths that cannot be written, whoever one is."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    return {
        "below a file": tmp_path / "file" / "w.safetensors",
        "a folder": tmp_path / "folder.safetensors",
        "a pipe": tmp_path / "pipe.safetensors",
    }


@pytest.mark.parametrize("place", ["below a file", "a folder", "a pipe"])
@pytest.mark.parametrize("option", ["--output", "--json", "--checkpoint"])
def test_outputs_are_tried_before_the_work(option, place, places, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flowrob.training.loop.Batches.draw", lambda *args: pytest.fail("began"))
    command = tiny("tiny-clean", tmp_path, option, str(places[place]))
    assert main(command) == 2
    assert str(places[place]) in said(capsys)


@pytest.mark.parametrize("command", ["attack", "table"])
def test_a_record_is_tried_before_the_work(command, places, tmp_path, capsys):
    more = {"attack": ["glow-photos-clean"], "table": ["tiny", "--folder", str(tmp_path)]}
    assert main([command, *more[command], "--json", str(places["a folder"])]) == 2
    assert "folder.safetensors" in said(capsys)
    assert not [*tmp_path.glob("*.partial")]


def test_weights_are_kept_when_their_place_fills_up(tmp_path, capsys, monkeypatch):
    original = zoo.save

    def full(flow, path, recipe):
        if Path(path).parent == tmp_path:
            raise OSError(28, "cannot be written (No space left on device)", str(path))
        return original(flow, path, recipe)

    monkeypatch.setattr(runs.zoo, "save", full)
    assert main(tiny("tiny-clean", tmp_path)) == 2
    error = capsys.readouterr().err
    kept = Path(error.split("the weights are in ")[1].splitlines()[0])
    assert "No space left on device" in error and state(kept)
    shutil.rmtree(kept.parent)


def test_weights_are_kept_when_scoring_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "attack_table", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(tiny("tiny-clean", tmp_path))
    (kept,) = (path for path in tmp_path.glob("*.safetensors") if "checkpoint" not in path.name)
    assert state(kept)


def test_damaged_files_end_in_one_line(trained, tmp_path, capsys):
    whole = (trained / "w.safetensors").read_bytes()
    path = tmp_path / "w.safetensors"
    for content in (b"", whole[:100], whole[:-9], whole[:-9] + b"123456789"):
        path.write_bytes(content)
        assert main(["attack", str(path), "--eps", "1", "--limit", "2"]) == 2
        assert "w.safetensors" in said(capsys)
    for content in ("{}", "[", '{"flowrob": "mixture"}'):
        (tmp_path / "m.json").write_text(content)
        assert main(["attack", str(tmp_path / "m.json")]) == 2
        assert "m.json" in said(capsys)
    checkpoint = tmp_path / "run.safetensors"
    checkpoint.write_bytes(whole)
    assert main(tiny("tiny-clean", tmp_path)) == 2
    assert "run.safetensors is not a checkpoint that flowrob wrote" in said(capsys)
    assert checkpoint.read_bytes() == whole


def test_models_that_cannot_be_attacked_are_told_in_one_line(trained, tmp_path, capsys):
    files = {
        "not initialised": zoo.save(
            flows.glow((3, 8, 8), 1, 1, 4), tmp_path / "new.safetensors", {}
        ),
        "a model of images is needed": zoo.save(flows.plane_flow(), tmp_path / "p.safetensors", {}),
    }
    for words, path in files.items():
        assert main(["attack", str(path), "--eps", "1", "--limit", "2", "--quiet"]) == 2
        assert words in said(capsys)
    odd = zoo.save(zoo.load(trained / "w.safetensors", "cpu"), tmp_path / "o.safetensors",
                   {"preset": ["odd"]})  # fmt: skip
    assert main(["attack", str(odd), "--eps", "0", "--limit", "2", "--quiet"]) == 0


@pytest.mark.parametrize("seed", ["-1", "9" * 30, "x", "1.5", ""])
def test_a_seed_that_no_generator_takes_is_refused(seed, tmp_path, capsys):
    for command in (["attack", "glow-photos-clean"], ["train", "--preset", "tiny-clean"]):
        with pytest.raises(SystemExit):
            main([*command, f"--seed={seed}"])
        assert "--seed" in capsys.readouterr().err


def test_a_table_none_of_whose_models_ships_is_told_so(capsys, tmp_path):
    assert main(["table", "tiny", "--shipped", "--folder", str(tmp_path)]) == 2
    assert "not shipped: tiny-clean, tiny-adversarial" in said(capsys)


@pytest.mark.parametrize("path", ["", "/nowhere/at/all"])
def test_images_that_are_nowhere_are_told_so(path, capsys):
    assert main(["attack", "glow-photos-clean", "--data", path, "--limit", "2"]) == 2
    assert f"--data {path!r}: neither photos, " in said(capsys)


def test_an_option_of_what_is_not_there_is_refused(tmp_path, capsys):
    output = str(tmp_path / "w.safetensors")
    run = ["train", "--preset", "tiny-clean", "--output", output, "--set", "checkpoint_every=5"]
    assert main(run) == 2
    assert "--checkpoint" in said(capsys)


def test_a_reader_that_has_seen_enough_is_no_error():
    process = subprocess.Popen([*HERE, "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141
