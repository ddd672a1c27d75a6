"""What runs inside a contained process: of a student's notebook what the answer is made of, and calls of it.

Nothing here judges: what it says of an answer can only be what the answer does, or be wrong. See `contained`.
"""

from __future__ import annotations

import ast
import contextlib
import re
import socket
import symtable
from typing import Any

import torch
from torch import Tensor, nn

from labutil.course import wire
from labutil.course.checks import frame
from labutil.runs import parameters

IMPORTS = ast.Import | ast.ImportFrom
LATE = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Missing(Exception):
    """No cell defines the answer."""


def prepare(lessons: list[str]) -> None:
    """Import what these lessons import, so that no submission has to wait for it."""
    torch.set_num_threads(1)
    for lesson in lessons:
        for cell in parameters.read_cells(parameters.find_notebook(lesson)):
            if cell["cell_type"] == "code":
                for statement in _statements("".join(cell["source"])):
                    if isinstance(statement, IMPORTS):
                        with contextlib.suppress(ImportError):
                            exec(compile(ast.Module([statement], []), "<imports>", "exec"), {})


def answer(connection: socket.socket) -> None:
    """Answer the grader's messages until it hangs up."""
    wire.send(connection, {"ready": True})
    session: dict[str, Any] = {"made": {}, "graphs": []}
    while True:
        with contextlib.suppress(EOFError):
            message, arrays = wire.receive(connection)
            try:
                said, found = ACTIONS[message["do"]](session, message, arrays)
            except BaseException as error:
                said, found = {"raised": [type(error).__name__, str(error)[:2000]]}, []
            try:
                wire.send(connection, said, found)
            except (TypeError, ValueError) as error:
                wire.send(connection, {"raised": ["Wrong", f"your function's answer: {error}"]})
            continue
        return


def _load(session: dict, message: dict, arrays: list) -> tuple[dict, list]:
    """Execute what the answer `name` is made of. Predictions (`literal`) are values: {"loss": math.log(8)}."""
    chosen = needed(message["cells"], message["name"])
    session["statements"], session["space"] = chosen, {"__name__": "__main__"}
    code = compile(ast.fix_missing_locations(ast.Module(chosen, [])), "<your answer>", "exec")
    exec(code, session["space"])
    session["function"] = session["space"][message["name"]]
    value = session["function"] if message["literal"] else None
    return {"value": wire.encode(value, found := [])}, found


def _ask(session: dict, message: dict, arrays: list) -> tuple[dict, list]:
    """Call the answer. Tensors whose gradient is asked for are marked; see `_back`."""
    leaves: list[Tensor] = []
    events: list[str] = []

    def special(tree: dict) -> Any:
        if tree["kind"] == "leaf":
            leaves.append(torch.from_numpy(arrays[tree["of"]]).requires_grad_())
            return leaves[-1] * 1 if tree["inner"] else leaves[-1]
        if tree["kind"] in ("module", "optimizer"):
            key = tree["key"]
            if key not in session["made"]:
                make = _module if tree["kind"] == "module" else _optimizer
                session["made"][key] = make(tree, arrays, session)
            return session["made"][key]
        return None

    session["events"] = events
    refused = tuple(message["refuses"])
    _look_for(session["statements"], refused)
    args = [wire.decode(tree, arrays, special) for tree in message["args"]]
    value = frame.without(session["function"], refused)(*args)
    found: list = []

    def graph(value: Any) -> dict | None:
        if not isinstance(value, Tensor) or not value.requires_grad:
            return None
        session["graphs"].append((value, leaves))
        return {"kind": "graph", "of": wire.encode(value.detach(), found), "number": len(session["graphs"]) - 1}

    modules = {k: m for k, m in session["made"].items() if isinstance(m, nn.Module)}
    said = {"value": wire.encode(value, found, graph), "events": events}
    said["weights"] = {k: [wire.encode(w.detach(), found) for w in m.parameters()] for k, m in modules.items()}
    return said, found


def _back(session: dict, message: dict, arrays: list) -> tuple[dict, list]:
    """Gradients of the leaves of an answer that was given before."""
    value, leaves = session["graphs"][message["number"]]
    outer = wire.decode(message["gradient"], arrays).to(value.dtype)
    found: list = []
    gradients = torch.autograd.grad(value, leaves, outer, allow_unused=True, retain_graph=True)
    return {"value": [wire.encode(gradient, found) for gradient in gradients]}, found


ACTIONS = {"load": _load, "ask": _ask, "back": _back}


def _module(tree: dict, arrays: list, session: dict) -> nn.Module:
    """The network that the check made, anew: layers of torch.nn one after the other, with its weights."""
    model = nn.Sequential(*(getattr(nn, name)(*args, **settings) for name, args, settings in tree["layers"]))
    for own, given in zip(model.parameters(), tree["weights"], strict=True):
        own.data.copy_(wire.decode(given, arrays))
        own.register_hook(lambda _: session["events"].append("backward"))
    return model


def _optimizer(tree: dict, arrays: list, session: dict) -> torch.optim.Optimizer:
    """Gradient descent that notes what is asked of it."""
    optimizer = torch.optim.SGD(session["made"][tree["module"]].parameters(), tree["lr"])
    for name in ("step", "zero_grad"):
        own = getattr(optimizer, name)

        def noted(*args: Any, own: Any = own, name: str = name, **settings: Any) -> Any:
            session["events"].append(name)
            return own(*args, **settings)

        setattr(optimizer, name, noted)
    return optimizer


def _look_for(statements: list[ast.stmt], refused: tuple[str, ...]) -> None:
    """Raise Wrong where an answer's text names a refused function: it may have been taken before it was replaced."""
    known = {}
    for node in (n for s in statements for n in ast.walk(s) if isinstance(n, IMPORTS)):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            known[alias.asname or alias.name] = whole
    for node in (n for s in statements for n in ast.walk(s) if isinstance(n, ast.Attribute | ast.Name)):
        first, _, rest = ast.unparse(node).partition(".")
        whole = f"{known.get(first, first)}.{rest}".rstrip(".")
        for name in refused:
            method = name.startswith("torch.Tensor.") and isinstance(node, ast.Attribute)
            if whole == name or (method and node.attr == name.rpartition(".")[2]):
                frame.refusal(name)()


def needed(cells: list[str], name: str) -> list[ast.stmt]:
    """Of all cells the statements that define a name, and what they use in their turn, in order.

    Of other cells than those that define the answer only imports, functions, classes and plain values are taken, so
    that nothing is loaded or trained. Raises Missing; SyntaxError where the cell that has the name cannot be read.
    """
    parsed, broken = [], None
    for number, source in enumerate(cells):
        try:
            parsed += [(number, statement) for statement in _statements(source)]
        except (SyntaxError, ValueError) as error:
            broken = error if re.search(rf"\b{re.escape(name)}\s*=|def\s+{re.escape(name)}\b", source) else broken
    binds = [_binds(statement) for _, statement in parsed]
    last = max((i for i, names in enumerate(binds) if name in names), default=None)
    if last is None:
        raise broken or Missing(name)
    own = {number for (number, _), names in zip(parsed, binds, strict=True) if name in names}

    def usable(place: int) -> bool:
        number, statement = parsed[place]
        plain = isinstance(statement, ast.Assign | ast.AnnAssign) and not any(
            isinstance(node, ast.Call) for node in ast.walk(statement)
        )
        return number in own or plain or isinstance(statement, IMPORTS | LATE)

    taken, asked = {last}, [last]
    while asked:
        place = asked.pop()
        late = isinstance(parsed[place][1], LATE)  # what a function uses may be defined after it
        for used in _uses(parsed[place][1]):
            upto = len(parsed) if late else place
            places = [i for i in range(upto) if used in binds[i] and i != place and usable(i)]
            if places and places[-1] not in taken:
                taken.add(places[-1])
                asked.append(places[-1])
    return [parsed[place][1] for place in sorted(taken)]


def _statements(source: str) -> list[ast.stmt]:
    """A cell's statements; lines for IPython alone become `pass`, and `x = check(mine).or_use(ours)` is `x = ours`, by
    which a later answer may have been written."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        body = ast.parse(re.sub(r"(?m)^([ \t]*)[%!?].*$", r"\1pass", source)).body
    for statement in body:
        match statement:
            case ast.Assign(value=ast.Call(func=ast.Attribute(attr="or_use"), args=[ours])):
                statement.value = ours
    return body


def _binds(statement: ast.stmt) -> set[str]:
    """Global names that a statement defines."""
    if isinstance(statement, LATE):
        return {statement.name}
    nodes = list(ast.walk(statement))
    imported = [
        alias.asname or alias.name.partition(".")[0] for n in nodes if isinstance(n, IMPORTS) for alias in n.names
    ]
    stored = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    return {*imported, *stored, *(n.name for n in nodes if isinstance(n, LATE))}


def _uses(statement: ast.stmt) -> set[str]:
    """Global names that a statement uses, now or when what it defines is called."""
    found, tables = set(), [symtable.symtable(ast.unparse(statement), "cell", "exec")]
    for table in tables:
        top = table.get_type() == "module"
        found |= {s.get_name() for s in table.get_symbols() if (s.is_referenced() if top else s.is_global())}
        tables += table.get_children()
    return found
