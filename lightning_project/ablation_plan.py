"""The file of an ablation: what is common to all cells, and what each cell changes."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.errors import DataError

BASE = "base"  # the cell that all others are compared with
_KEYS = ("title", "base", "set", "seeds", "folds", "metrics", "cells")
_CELL = ("config", "set", "ensemble", "decide", "rounds", "hoped", "note")
_KINDS = {  # what a cell of a kind may say, and what it must
    "ensemble": ({"of", "method"}, {"of"}),
    "decide": ({"of", "rule", "positive", "target", "recall", "cost"}, {"of", "rule"}),
    "rounds": ({"method", "rounds", "unlabelled", "threshold", "quota"}, {"method"}),
}


@dataclass(frozen=True)
class Cell:
    """One row of the table.

    Attributes:
        name: Its name, also that of its folder.
        configs: Overlays laid over the base.
        settings: Dotted settings, which win over the overlays.
        kind: ``fit``, ``ensemble``, ``decide`` or ``rounds``.
        options: Options of the kind.
        hoped: The gain that was hoped for, as text.
        note: A remark for the table.
    """

    name: str
    configs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "fit"
    options: Mapping[str, Any] = field(default_factory=dict)
    hoped: str = ""
    note: str = ""

    @property
    def members(self) -> list[str]:
        """The cells that this one is made of."""
        return _listed(self.options.get("of"))

    def words(self) -> list[str]:
        """Return the cell's own words of the command line."""
        return [*_configs(self.configs), *_options(self.settings)]


@dataclass(frozen=True)
class Plan:
    """What an ablation runs.

    Attributes:
        title: Headline of the table.
        base: Configs of the base, the complete one first.
        settings: Dotted settings of all cells.
        seeds: Seeds of each cell.
        folds: Folds of the data, each of them the test part once; 0 = the split of the config.
        metrics: Metrics of the table; the first is drawn. ``f1:NAME``, ``recall:NAME``, ``precision:NAME`` of a class.
        cells: All rows, the base first.
    """

    title: str
    base: tuple[str, ...]
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    folds: int
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]

    @classmethod
    def read(cls, path: str | Path) -> "Plan":
        """Read and check the file.

        Raises:
            DataError: Naming the file, the cell and the key that is wrong.
        """
        try:
            raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(f"{path}: not a readable ablation file ({' '.join(str(error).split())})") from error
        if not isinstance(raw, dict):
            raise DataError(f"{path}: expected the keys {', '.join(_KEYS)}")
        _known(raw, _KEYS, str(path))
        for key in ("base", "cells"):
            if not raw.get(key):
                raise DataError(f"{path}: {key!r} is missing or empty")
        if not isinstance(raw["cells"], dict):
            raise DataError(f"{path}: cells: give a mapping from names to what each changes")
        cells = [_cell(str(path), str(name), said) for name, said in raw["cells"].items()]
        if all(cell.name != BASE for cell in cells):
            cells.insert(0, Cell(BASE))
        seeds, folds = raw.get("seeds", [0]), raw.get("folds", 0)
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds) or len({*seeds}) != len(seeds):
            raise DataError(f"{path}: seeds: {seeds!r}: give a list of different whole numbers")
        if type(folds) is not int or folds == 1 or folds < 0 or not seeds:
            raise DataError(f"{path}: folds: {folds!r}: give 0 (the config's own split) or at least 2; and one seed")
        metrics = tuple(_listed(raw.get("metrics", ["macro_f1", "accuracy"])))
        settings = _settings(str(path), raw.get("set"))
        plan = cls(
            title=str(raw.get("title", Path(path).stem)),
            base=tuple(_listed(raw["base"])),
            settings=settings,
            seeds=tuple(seeds),
            folds=folds,
            metrics=metrics,
            cells=tuple(_ordered(cells)),
        )
        plan._check(str(path))
        return plan

    def words(self) -> list[str]:
        """Return the words that all cells share."""
        return [*_configs(self.base), *_options(self.settings)]

    def only(self, names: Iterable[str]) -> "Plan":
        """Return the plan with the base, some of the cells and the members of these.

        Raises:
            DataError: For a name that no cell has.
        """
        by_name, wanted = {cell.name: cell for cell in self.cells}, {BASE}
        rest = list(names)
        while rest:
            name = rest.pop()
            if name not in by_name:
                raise DataError(f"no cell {name!r}{_near(name, by_name)}; cells: {', '.join(by_name)}")
            wanted.add(name)
            rest += [member for member in by_name[name].members if member not in wanted]
        return Plan(**{**vars(self), "cells": tuple(cell for cell in self.cells if cell.name in wanted)})

    def _check(self, path: str) -> None:
        names = {cell.name: cell for cell in self.cells}
        if not self.metrics:
            raise DataError(f"{path}: metrics: give at least one")
        if names[BASE].kind != "fit":
            raise DataError(f"{path}: cells.{BASE}: the base is one fit")
        for cell in self.cells:
            for member in cell.members:
                if member not in names:
                    raise DataError(f"{path}: cells.{cell.name}: no cell {member!r}{_near(member, names)}")
                if names[member].kind != "fit":
                    raise DataError(f"{path}: cells.{cell.name}: {member!r} is no single fit; name cells that are")
            if cell.kind == "decide" and len(cell.members) != 1:
                raise DataError(f"{path}: cells.{cell.name}: decide takes one cell in `of`")
            if cell.kind == "ensemble" and len(cell.members) < 2 and len(self.seeds) < 2:
                raise DataError(f"{path}: cells.{cell.name}: one cell with one seed is no ensemble")
        for config in {*self.base, *(config for cell in self.cells for config in cell.configs)}:
            if not Path(config).is_file():
                raise DataError(f"{path}: no config {config} (paths are as in --config, from the current folder)")


def _cell(path: str, name: str, said: object) -> Cell:
    where = f"{path}: cells.{name}"
    if not isinstance(said, dict):
        raise DataError(f"{where}: expected some of the keys {', '.join(_CELL)}")
    if not name.isidentifier():
        raise DataError(f"{where}: the name is a folder's too: letters, digits and _ only")
    _known(said, _CELL, where)
    kinds = [kind for kind in _KINDS if kind in said]
    if len(kinds) > 1:
        raise DataError(f"{where}: {' and '.join(kinds)} cannot be one cell")
    kind = kinds[0] if kinds else "fit"
    if kind in ("ensemble", "decide") and ("config" in said or "set" in said):
        raise DataError(f"{where}: {kind} works on finished cells; config and set belong to these")
    options = said.get(kind, {})
    if kinds:
        allowed, needed = _KINDS[kind]
        if not isinstance(options, dict) or not needed <= options.keys():
            raise DataError(f"{where}.{kind}: needs {', '.join(sorted(needed))}")
        _known(options, sorted(allowed), f"{where}.{kind}")
    settings, configs = _settings(where, said.get("set")), tuple(_listed(said.get("config")))
    if kind == "fit" and name != BASE and not configs and not settings:
        raise DataError(f"{where}: changes nothing: give config, set, ensemble, decide or rounds")
    return Cell(name, configs, settings, kind, options, str(said.get("hoped", "")), str(said.get("note", "")))


def _ordered(cells: list[Cell]) -> list[Cell]:
    """Return the base first and cells that are made of others last; otherwise as written."""
    rank = {"fit": 1, "rounds": 1, "decide": 2, "ensemble": 2}
    return sorted(cells, key=lambda cell: 0 if cell.name == BASE else rank[cell.kind])


def _settings(where: str, found: object) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict) or any(isinstance(value, dict) and not value for value in found.values()):
        raise DataError(f"{where}: set: give dotted settings, such as model.dropout: 0.2")
    return {str(key): value for key, value in found.items()}


def _known(found: Mapping[Any, Any], allowed: Iterable[str], where: str) -> None:
    allowed = list(allowed)
    for key in found:
        if key not in allowed:
            raise DataError(f"{where}: unknown key {key!r}{_near(str(key), allowed)}; known: {', '.join(allowed)}")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def _listed(value: object) -> list[str]:
    return [] if value is None else [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]


def _configs(paths: Iterable[str]) -> list[str]:
    return [word for path in paths for word in ("--config", path)]


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as words; whatever is no text is written as JSON, which the command line reads."""
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return [f"--{key}={value}" for key, value in plain.items()]
