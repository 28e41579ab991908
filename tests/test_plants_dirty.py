"""A source with every fault at once, through the launcher: all is named with file and line, and nothing is lost."""

import io
import json
import shutil

import numpy as np
import pandas as pd
from PIL import Image

from datamodules.synthetic.plants import make_plants
from tests.running import NAME, code, fitted_run


def encoded(picture, form):
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def write(folder):
    """Write 120 good pictures and the faulty ones behind them; return the lines and the faulty ids in their order."""
    made = make_plants(120, 4, 40)
    lines, files = [], {}
    for row in made.records.to_dict("records"):
        files[f"{row['id']}.png"] = encoded(Image.fromarray(made.pixels[row["row"]].transpose(1, 2, 0)), "PNG")
        lines.append({"id": row["id"], "path": f"{row['id']}.png", "latin_name": row["label"], "region": row["region"]})
    name, good = lines[0]["latin_name"], encoded(Image.fromarray(made.pixels[0].transpose(1, 2, 0)), "JPEG")
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65535, (40, 40), dtype=np.uint16)
    faulty = {
        "half.jpg": good[: len(good) // 2],
        "empty.jpg": b"",
        "dot.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "huge.png": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
        "text.jpg": b"<html>not found</html>",
    }
    odd = {
        "cmyk.jpg": encoded(Image.fromarray(rng.integers(0, 255, (40, 40, 4), dtype=np.uint8), "CMYK"), "JPEG"),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
    }
    files |= faulty | odd
    lines += [{"id": one, "path": one, "latin_name": name} for one in (*faulty, "missing.jpg", *odd)]
    lines[3]["region"] = "ATLANTIS"
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return lines, [*faulty, "missing.jpg"]


def test_every_fault_is_named_and_what_is_good_is_kept(tmp_path, capsys):
    lines, faulty = write(tmp_path)
    path = tmp_path / "plants.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ["audit", "--data.path", str(path), "--data.simple_models", "false", "--data.conflicts", "keep"]
    words += ["--data.near_distance", "0", "--name", "dirty"]
    assert code(words, system="plants") == 0
    folder = tmp_path / "runs" / "plants" / "dirty" / "audit"
    facts = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    kept = sum(part["rows"] for part in facts["parts"].values())
    assert kept == len(lines) - len(faulty)
    found = {finding["kind"]: finding for finding in facts["findings"]}
    said = found["unusable_picture"]["examples"]
    assert found["unusable_picture"]["count"] == len(faulty) == len(said)
    for number, (name, line) in enumerate(zip(faulty, said, strict=True), 121):
        assert line.startswith(f"plants.jsonl, line {number}: {name}: ")
    strange = found["unknown_region"]
    assert strange["examples"] == ["plants.jsonl, line 4: region ATLANTIS"]
    page = (folder / "AUDIT.md").read_text(encoding="utf-8")
    assert "huge.png: too many pixels to unpack" in page and "1 x 1 pixels" in page and "does not exist" in page
    capsys.readouterr()
    assert code([*words[:-2], "--data.bad_pictures", "refuse"], system="plants") == 3
    assert "plants.jsonl, line 121: half.jpg" in capsys.readouterr().err
    assert code([*words[:-2], "--data.regions", "[EU_SOUTH]"], system="plants") == 3
    assert "'EU_SOUTH' is no region; did you mean EU_" in capsys.readouterr().err
    path.write_text(path.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    assert code(words[:-2], system="plants") == 3
    assert f"plants.jsonl, line {len(lines)}: not a complete JSON object" in capsys.readouterr().err


def test_predict_names_what_it_could_not_use_and_forgets_what_an_earlier_call_found(tmp_path, tmp_path_factory):
    folder = tmp_path / "runs" / "plants" / NAME
    shutil.copytree(fitted_run(tmp_path_factory, "plants"), folder)
    lines, faulty = write(tmp_path)
    new, found = tmp_path / "new.jsonl", folder / "predict" / "findings.csv"
    for wanted in (lines[:4] + lines[-len(faulty) - 2 :], lines[:4]):
        new.write_text("".join(json.dumps(line) + "\n" for line in wanted), encoding="utf-8")
        words = ["predict", "--config", str(folder / "config.yaml"), "--name", NAME, "--ckpt_path", "best"]
        assert code([*words, "--data.predict_path", str(new)], config=False) == 0
        answered = pd.read_csv(folder / "predict" / "predictions.csv")["id"].tolist()
        if wanted == lines[:4]:
            assert len(answered) == 4 and not found.exists()
        else:
            said = pd.read_csv(found)
            said = said.loc[said["kind"] == "unusable_picture", "finding"].tolist()
            assert len(said) == len(faulty) and len(answered) == len(wanted) - len(faulty)
            assert all(f": {name}: " in line for name, line in zip(faulty, said, strict=True))
