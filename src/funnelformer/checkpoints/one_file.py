"""Modules of this package as one file: what some of its names need, taken from the sources as they stand.

Definitions keep their text, with docstrings and comments; imports of ours disappear, and a name that two modules give
to different things gets its module's name as well. Shapes are left out of annotations: jaxtyping is not needed.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

__all__ = ["Flattened", "flatten"]

_PACKAGE = __name__.partition(".")[0]
_ROOT = Path(__file__).parents[1]
_SHAPES = "jaxtyping"

# A definition: its module and its name there.
Definition: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Flattened:
    """One file.

    definitions: what is in it. outside: what it needs of another file. imports: of other packages, one a line.
    """

    definitions: tuple[Definition, ...]
    outside: tuple[Definition, ...]
    imports: tuple[str, ...]
    text: str


def flatten(
    roots: Sequence[Definition],
    *,
    without_modules: Collection[str] = (),
    without_methods: Mapping[str, Collection[str]] | None = None,
    replaced: Mapping[Definition, str] | None = None,
    elsewhere: Collection[Definition] = (),
) -> Flattened:
    """The definitions that `roots` need, in an order in which they can be run.

    without_modules: an `if` or an entry of a table that speaks of one of these modules is left out.
    without_methods: class -> its methods that are left out.
    replaced: a definition -> its text in place of the source's. It names what it needs as the file does.
    elsewhere: definitions that another file has, under their names.
    Raises ValueError where something else speaks of a module that is left out.
    """
    files = _Files()
    job = _Job(files, set(without_modules), dict(without_methods or {}), dict(replaced or {}), set(elsewhere))
    for root in roots:
        job.need(root)
    return job.result()


@dataclass
class _Module:
    """A source file: its statements by the names they define, and where its imported names come from."""

    name: str
    path: Path

    @cached_property
    def source(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def starts(self) -> list[int]:
        """The offset at which each line begins."""
        return [0, *(match.end() for match in re.finditer(rb"\n", self.source))]

    @cached_property
    def definitions(self) -> dict[str, ast.stmt]:
        return {name: node for node in self.tree.body for name in _defined(node)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, str | None]]:
        """What a module imports: local name -> a module, or a module and a name in it."""
        found: dict[str, tuple[str, str | None]] = {}
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in _top(self.tree.body):
            if isinstance(node, ast.Import):
                found |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                base = node.module or ""
                if node.level:
                    above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                    base = f"{above}.{base}".rstrip(".")
                found |= {alias.asname or alias.name: (base, alias.name) for alias in node.names}
        return found

    def offset(self, line: int, column: int) -> int:
        return self.starts[line - 1] + column

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def lines_of(self, node: ast.stmt) -> tuple[int, int]:
        """The source lines of a definition, with its decorators and the comments right above it."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        lines = self.source.split(b"\n")
        while first > 1 and lines[first - 2].strip().startswith(b"#"):
            first -= 1
        assert node.end_lineno is not None
        return self.starts[first - 1], self.starts[node.end_lineno]


class _Files:
    """The modules of this package, by name."""

    def __init__(self) -> None:
        self._modules: dict[str, _Module | None] = {}

    def get(self, name: str) -> _Module | None:
        """The module of that name; None if there is none."""
        if name not in self._modules:
            path = _ROOT.joinpath(*name.split(".")[1:])
            files = (path / "__init__.py", path.with_name(f"{path.name}.py"))
            file = next((file for file in files if file.is_file()), None)
            self._modules[name] = None if file is None else _Module(name, file)
        return self._modules[name]

    def __getitem__(self, name: str) -> _Module:
        module = self.get(name)
        assert module is not None, name
        return module

    def resolve(self, module: str, name: str) -> Definition | str | tuple[str, str | None, str] | None:
        """What a name at the top of a module is.

        A definition; the name of a module of ours; an import of another package as its module, its name there and the
        local one; None for what is neither, such as a built-in.
        """
        source = self[module]
        if name in source.definitions:
            return module, name
        if name not in source.imports:
            return None
        base, attribute = source.imports[name]
        if base.partition(".")[0] != _PACKAGE:
            return base, attribute, name
        if attribute is None:
            return base
        found = None if base == module else self.resolve(base, attribute)
        return f"{base}.{attribute}" if found is None and self.get(f"{base}.{attribute}") else found


@dataclass
class _Job:
    files: _Files
    without_modules: set[str]
    without_methods: dict[str, Collection[str]]
    replaced: dict[Definition, str]
    elsewhere: set[Definition]
    edits: dict[str, list[tuple[int, int, Definition | str]]] = field(default_factory=dict)
    needed: list[Definition] = field(default_factory=list)
    outside: set[Definition] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)

    def need(self, definition: Definition) -> None:
        """Take a definition into the file, after what it needs."""
        if definition in self.elsewhere:
            self.outside.add(definition)
            return
        if definition in self.needed:
            return
        self.needed.append(definition)
        if definition in self.replaced:
            return
        module, name = definition
        reader = _Reader(self, self.files[module])
        reader.statement(self.files[module].definitions[name])

    def result(self) -> Flattened:
        modules = list(dict.fromkeys(module for module, _ in self.needed))
        order = _in_order(modules, self.files)
        names = self._names()
        parts = []
        for module in order:
            source = self.files[module]
            statements = [
                node
                for node in source.tree.body
                if any((module, name) in self.needed for name in _defined(node))
            ]
            parts.append(f"# From {module.removeprefix(_PACKAGE + '.').replace('.', '/')}\n")
            for node in statements:
                definition = module, _defined(node)[0]
                text = self.replaced.get(definition) or self._edited(source, node, names)
                is_short = isinstance(node, ast.Assign | ast.AnnAssign)
                parts.append(text.strip("\n") + ("\n" if is_short else "\n\n"))
        text = "\n".join(parts).rstrip() + "\n"
        return Flattened(tuple(self.needed), tuple(sorted(self.outside)), tuple(self._import_lines()), text)

    def _names(self) -> dict[Definition, str]:
        """The name of each definition in the file. Raises ValueError where two classes would have one."""
        every = {*self.needed, *self.elsewhere}
        counts = Counter(name for _, name in every)
        names = {}
        for module, name in sorted(every):
            if counts[name] == 1 or (module, name) in self.elsewhere:
                names[module, name] = name
                continue
            bare = name.lstrip("_")
            if bare[0].isupper() and not bare.isupper():
                raise ValueError(f"two modules have a class {name}, whose name may stand in a text")
            place = "_".join(module.split(".")[-2:])
            names[module, name] = (
                name.removesuffix(bare) + (place.upper() if bare.isupper() else place) + "_" + bare
            )
        return names

    def _edited(self, source: _Module, node: ast.stmt, names: Mapping[Definition, str]) -> str:
        start, end = source.lines_of(node)
        parts, place = [], start
        # Of edits one within another the outer one counts.
        for first, last, text in sorted(
            self.edits.get(source.name, []), key=lambda edit: (edit[0], -edit[1])
        ):
            if start <= first and last <= end and first >= place:
                parts += [
                    source.source[place:first],
                    (text if isinstance(text, str) else names[text]).encode(),
                ]
                place = last
        return b"".join([*parts, source.source[place:end]]).decode()

    def _import_lines(self) -> Iterator[str]:
        plain = sorted(line for line in self.imports.values() if line.startswith("import "))
        yield from plain
        grouped: dict[str, list[str]] = {}
        for line in self.imports.values():
            if line.startswith("from "):
                base, _, name = line.removeprefix("from ").partition(" import ")
                grouped.setdefault(base, []).append(name)
        for base in sorted(grouped):
            yield f"from {base} import {', '.join(sorted(grouped[base]))}"


@dataclass
class _Reader:
    """Reads one definition: what it needs, and what changes in its text."""

    job: _Job
    module: _Module

    def statement(self, node: ast.stmt) -> None:
        self._visit(node, frozenset())

    def _visit(self, node: ast.AST, hidden: frozenset[str]) -> None:
        """hidden: names of the functions around it, which are not those at the module's top."""
        if isinstance(node, ast.If) and self._is_left_out(node, hidden):
            self._edit(self.module.lines_of(node), "")
            return
        if isinstance(node, ast.ClassDef):
            left_out = self.job.without_methods.get(node.name, ())
            missing = set(left_out) - {getattr(entry, "name", "") for entry in node.body}
            if missing:
                raise ValueError(f"{node.name} has no {', '.join(sorted(missing))} that could be left out")
            for entry in node.body:
                if getattr(entry, "name", None) in left_out:
                    self._edit(self.module.lines_of(entry), "")
            others = [entry for entry in node.body if getattr(entry, "name", None) not in left_out]
            self._all([*node.decorator_list, *node.bases, *node.keywords, *others], hidden)
        elif isinstance(node, ast.FunctionDef | ast.Lambda):
            outside: list[ast.AST] = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
            if isinstance(node, ast.FunctionDef):
                outside += node.decorator_list + ([node.returns] if node.returns else [])
            outside += [a.annotation for a in _arguments(node) if a.annotation is not None]
            self._all(outside, hidden)
            body = node.body if isinstance(node, ast.FunctionDef) else [node.body]
            self._all(body, hidden | _bound(node))
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and self._speaks_of_left_out(value, hidden):
                    self._edit(self.module.lines_of(ast.Expr(value, **_place(key, value))), "")
                else:
                    self._all(filter(None, [key, value]), hidden)
        elif isinstance(node, ast.Subscript) and self._is_shape(node.value, hidden):
            assert isinstance(node.slice, ast.Tuple)
            kind = node.slice.elts[0]
            start, end = self.module.span(kind)
            self._edit(self.module.span(node), self.module.source[start:end].decode())
            self._visit(kind, hidden)
        elif isinstance(node, ast.Attribute) and isinstance(found := self._found(node.value, hidden), str):
            self._refer(node, self.job.files.resolve(found, node.attr), always=True)
        elif isinstance(node, ast.Name):
            if node.id not in hidden and isinstance(node.ctx, ast.Load):
                self._refer(node, self._found(node, hidden))
            elif node.id not in hidden and (self.module.name, node.id) in self.job.needed:
                self._edit(self.module.span(node), (self.module.name, node.id))
        else:
            self._all(ast.iter_child_nodes(node), hidden)
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and (self.module.name, node.name) in self.job.needed
        ):
            start = self.module.span(node)[0]
            place = self.module.source.index(node.name.encode(), start)
            if self.module.tree.body.count(node):
                self._edit((place, place + len(node.name.encode())), (self.module.name, node.name))

    def _all(
        self, nodes: Iterator[ast.AST] | Sequence[ast.AST] | filter[ast.AST], hidden: frozenset[str]
    ) -> None:
        for node in nodes:
            self._visit(node, hidden)

    def _refer(
        self,
        node: ast.expr,
        found: Definition | str | tuple[str, str | None, str] | None,
        *,
        always: bool = False,
    ) -> None:
        if found is None:
            if always:
                raise ValueError(f"{self.module.name}: line {node.lineno} speaks of what is not there")
            return
        if self._is_without(found) or isinstance(found, str):
            raise ValueError(f"{self.module.name}: line {node.lineno} speaks of a module that is left out")
        if len(found) == 3:
            base, attribute, local = found
            wanted = f"import {base}" if attribute is None else f"from {base} import {attribute}"
            if local != (attribute or base):
                wanted += f" as {local}"
            if self.job.imports.setdefault(local, wanted) != wanted:
                raise ValueError(f"{self.module.name}: {local} is {wanted} here and something else elsewhere")
            return
        self.job.need(found)
        self._edit(self.module.span(node), found)

    def _found(
        self, node: ast.expr, hidden: frozenset[str]
    ) -> Definition | str | tuple[str, str | None, str] | None:
        if not isinstance(node, ast.Name) or node.id in hidden:
            return None
        return self.job.files.resolve(self.module.name, node.id)

    def _is_shape(self, node: ast.expr, hidden: frozenset[str]) -> bool:
        found = self._found(node, hidden)
        return isinstance(found, tuple) and len(found) == 3 and found[0] == _SHAPES

    def _is_without(self, found: Definition | str | tuple[str, str | None, str] | None) -> bool:
        module = found if isinstance(found, str) else found[0] if found is not None else None
        return module in self.job.without_modules

    def _speaks_of_left_out(self, node: ast.AST, hidden: frozenset[str]) -> bool:
        return any(
            isinstance(entry, ast.Name) and self._is_without(self._found(entry, hidden))
            for entry in ast.walk(node)
        )

    def _is_left_out(self, node: ast.If, hidden: frozenset[str]) -> bool:
        return not node.orelse and self._speaks_of_left_out(node, hidden)

    def _edit(self, span: tuple[int, int], text: Definition | str) -> None:
        self.job.edits.setdefault(self.module.name, []).append((*span, text))


def _in_order(modules: Sequence[str], files: _Files) -> list[str]:
    """The modules, each after those that it imports."""
    order: list[str] = []
    seen: set[str] = set()

    def take(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for node in files[name].tree.body:
            if isinstance(node, ast.ImportFrom):
                for local in (alias.asname or alias.name for alias in node.names):
                    base, attribute = files[name].imports.get(local, ("", None))
                    for candidate in (base, f"{base}.{attribute}"):
                        if candidate.partition(".")[0] == _PACKAGE and files.get(candidate) is not None:
                            take(candidate)
        order.append(name)

    for module in modules:
        take(module)
    return [name for name in order if name in modules]


def _top(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements at a module's top, also those for type checkers alone."""
    for node in body:
        yield node
        if isinstance(node, ast.If):
            yield from node.body


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement at a module's top defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [node.target.id] if isinstance(node.target, ast.Name) else []
    if isinstance(node, ast.Assign):
        return [
            entry.id
            for target in node.targets
            for entry in ast.walk(target)
            if isinstance(entry, ast.Name) and entry.id != "__all__"
        ]
    if isinstance(node, ast.If):
        return [name for entry in node.body for name in _defined(entry)]
    return []


def _arguments(node: ast.FunctionDef | ast.Lambda) -> list[ast.arg]:
    given = node.args
    several = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return several + [entry for entry in (given.vararg, given.kwarg) if entry is not None]


def _bound(node: ast.FunctionDef | ast.Lambda) -> frozenset[str]:
    """The names that a function has for itself."""
    names = {entry.arg for entry in _arguments(node)}
    body = node.body if isinstance(node.body, list) else [node.body]
    for entry in (entry for statement in body for entry in ast.walk(statement)):
        if isinstance(entry, ast.Name) and isinstance(entry.ctx, ast.Store):
            names.add(entry.id)
        elif isinstance(entry, ast.FunctionDef | ast.ClassDef) or (
            isinstance(entry, ast.ExceptHandler) and entry.name is not None
        ):
            names.add(str(entry.name))
    return frozenset(names)


def _place(key: ast.expr, value: ast.expr) -> dict[str, int]:
    return {
        "lineno": key.lineno,
        "col_offset": key.col_offset,
        "end_lineno": value.end_lineno or value.lineno,
        "end_col_offset": value.end_col_offset or 0,
    }
