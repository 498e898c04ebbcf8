"""Which modules a module imports, read from its source."""

import ast
from dataclasses import dataclass

from tests.house.sources import Module


@dataclass(frozen=True)
class Import:
    """One imported name."""

    target: str
    """Dotted and absolute; ``from a import b`` gives ``a.b``."""
    line: int
    """Where, counted from 1."""
    deferred: bool
    """Whether it happens only when a function is called."""
    typing_only: bool
    """Whether only a type checker sees it."""


def imports_of(module: Module) -> list[Import]:
    """All imports of a module, those inside functions and by ``import_module("…")`` included."""
    visitor = _Visitor(module)
    visitor.visit(module.tree)
    return visitor.found


class _Visitor(ast.NodeVisitor):
    def __init__(self, module: Module) -> None:
        self.package = module.name.split(".")
        if not module.is_package:
            self.package.pop()
        self.deferred = self.typing_only = False
        self.found: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self.package[: len(self.package) + 1 - node.level] if node.level else []
        parts = [*base, node.module] if node.module else base
        for alias in node.names:
            self._add(".".join([*parts, alias.name]), node)

    def visit_Call(self, node: ast.Call) -> None:
        match node:
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(target)), *_],
            ):
                self._add(target, node)
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        typing_only = ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
        self._visit_within(node.body, typing_only=typing_only or self.typing_only)
        self._visit_within([node.test, *node.orelse])

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._visit_within([*node.decorator_list, node.args])
        self._visit_within(node.body, deferred=True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_within([node.body], deferred=True)

    def _visit_within(self, nodes: list[ast.AST], **flags: bool) -> None:
        before = self.deferred, self.typing_only
        self.deferred = flags.get("deferred", self.deferred)
        self.typing_only = flags.get("typing_only", self.typing_only)
        for node in nodes:
            self.visit(node)
        self.deferred, self.typing_only = before

    def _add(self, target: str, node: ast.AST) -> None:
        self.found.append(Import(target, node.lineno, self.deferred, self.typing_only))
