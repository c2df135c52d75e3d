"""Records: files whole or not at all, strict JSON, and a run that says how it was made."""

from __future__ import annotations

import json
import math
import sys
import time

import pytest
import torch

import flowrob
from flowrob.records import (
    as_json,
    circumstances,
    command_line,
    installed,
    plain,
    write_json,
    write_whole,
)


def test_a_file_appears_whole(tmp_path):
    path, seen = tmp_path / "deep" / "folder" / "a.txt", []

    def write(partial):
        partial.write_text("half")
        seen.append((partial.parent, partial != path, path.exists()))
        partial.write_text("whole")

    assert write_whole(str(path), write) == path
    assert path.read_text() == "whole"
    assert seen == [(path.parent, True, False)]  # beside its place: the move is within one disk
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(partial):
        partial.write_text("half of the n")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert path.read_text() == "old"
    write_whole(path, lambda partial: partial.write_text("new"))  # whatever the failure left
    assert path.read_text() == "new"


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"mean": math.inf, "eps": (0, 8)})
    assert path.read_text() == '{\n "mean": "inf",\n "eps": [\n  0,\n  8\n ]\n}\n'
    monkeypatch.setattr("flowrob.records.as_json", lambda content: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_json(path, {})
    assert json.loads(path.read_text())["eps"] == [0, 8]
    write_json(None, {})  # no path, no file


def test_json_is_strict():
    content = {
        "a": [math.inf, -math.inf, math.nan, 1.5, 3, True, None, "text"],
        8: {"device": torch.device("cpu"), "where": (1, 2)},
    }
    text = as_json(content)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["inf", "-inf", "nan", 1.5, 3, True, None, "text"],
        "8": {"device": "cpu", "where": [1, 2]},
    }
    assert plain(plain(content)) == plain(content)
    assert text.startswith('{\n "a": [\n  "inf"')  # one blank a level


def test_a_run_says_how_it_was_made():
    record = circumstances(time.monotonic() - 2.0, "flowrob x", ("numpy", "no-such-package"), 3)
    assert record["command"] == "flowrob x"
    assert 2.0 <= record["duration_s"] < 60.0
    assert record["versions"]["flowrob"] == flowrob.__version__
    assert record["versions"]["torch"] == torch.__version__
    assert {*record["versions"]} == {"flowrob", "python", "torch", "numpy"}
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["machine"]["processes"] == 3
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert len(record["date"].split("-")) == 3
    as_json(record)
    assert installed("no-such-package") is None
    assert installed("torch").split("+")[0] == torch.__version__.split("+")[0]


def test_the_command_names_no_folders():
    argv = ["table", "2", "--data", "celeba=/home/me/my faces.npz", "--out", "/tmp/a/b.json", "-v"]
    assert command_line("flowrob", argv) == (
        "flowrob table 2 --data 'celeba=my faces.npz' --out b.json -v"
    )
