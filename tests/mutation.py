"""Change one operator of the training step at a time, and see whether ``mlpcli gradcheck`` notices.

    python -m tests.mutation                       all mutants of all files: docs/reliability.md has the result
    python -m tests.mutation --sample 30           thirty of them
    python -m tests.mutation --only optimizers     those with this in their file, function or line
    python -m tests.mutation --mpi                 those of the step of two processes of MPI

A mutant is a copy of a file with one operator, comparison, constant, index, end of a slice or statement changed. For
each one a process is forked that has numpy loaded, imports the mutated file in the place of the right one, and runs
gradcheck with those arguments of ``mutation_table.CHECKS`` that reach the changed line, until one fails. If all pass,
it trains with ``mutation_table.TRAININGS``, in float64, and compares the checkpoints with those of the right files:

    caught      gradcheck ended with status 1, or did not end within the time limit
    crashed     gradcheck ended with an exception, or with another status: noticed, but not proven wrong
    survived    gradcheck passed, and a parameter or an optimizer's state differs by more than rounding
    metrics     gradcheck passed, all parameters are the same, and a loss or an error that is reported is not
    loud        gradcheck passed, and a training ended with an error, or did not end: no wrong number comes of it
    equivalent  gradcheck passed, and every training gave the same: the mutant changes no number of a step
    unreached   no check and no training comes to the line

Left out by rule, as no number of a step depends on them: annotations, docstrings, messages, decorators, protocols,
``if TYPE_CHECKING``, assertions, ``strict`` of zip, and conditions that only decide whether an error is raised.

The exit status is 1 if a mutant survived that is not in ``mutation_table.KNOWN``, where each has its reason, or if
fewer of those caught, crashed and survived were caught or crashed than ``--least``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import importlib
import importlib.util
import json
import math
import mmap
import os
import random
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any, ClassVar

from tests.mutation_table import (
    CHECKS,
    FILES,
    KNOWN,
    MPI_CHECKS,
    MPI_FILES,
    MPI_TRAININGS,
    TRAININGS,
    Known,
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mlpcli"

CAUGHT, CRASHED, SURVIVED = "caught", "crashed", "survived"
METRICS, LOUD, EQUIVALENT, UNREACHED = "metrics", "loud", "equivalent", "unreached"
MEMORY = 1 << 33  # bytes of address space for a mutant
MPI_SECONDS = 3.0  # of processor time, that a command by MPI takes at most
ROUNDING = {"float64": 1e-8, "float32": 1e-3}  # the relative difference of arrays below which they are the same
RANK = "--be-rank"  # tells a process that mpiexec has started which mutant to run
# Where files are written much faster than on a disk.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# Mutants ------------------------------------------------------------------------------------------

ARITHMETIC: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
# numpy's operators have names. Each is changed into its neighbour, both ways.
_NEIGHBOURS = (
    ("add", "subtract"),
    ("multiply", "divide"),
    ("minimum", "maximum"),
    ("min", "max"),
    ("argmin", "argmax"),
    ("any", "all"),
    ("greater", "greater_equal"),
    ("less", "less_equal"),
    ("negative", "positive"),
    ("zeros", "ones"),
    ("log1p", "log"),
    ("square", "abs"),
)
# Methods of other things have these names too.
ONLY_NUMPY = {"add", "subtract"}
NAMES = {**dict(_NEIGHBOURS), **{second: first for first, second in _NEIGHBOURS}}


@dataclass
class Edit:
    """A field of a node of the syntax tree, or an item of it, and its new value."""

    node: ast.AST
    field: str
    index: int | None
    new: Any

    def swap(self) -> None:
        """Exchange the new value and the old one: the second call undoes the first."""
        if self.index is None:
            old = getattr(self.node, self.field)
            setattr(self.node, self.field, self.new)
        else:
            items = getattr(self.node, self.field)
            old, items[self.index] = items[self.index], self.new
        self.new = old


@dataclass
class Mutant:
    """Change ``number`` of a file: the statement ``before`` and ``after`` it, without its body."""

    number: int
    file: str
    function: str
    kind: str
    lines: range
    before: str
    after: str
    tree: ast.Module
    edit: Edit

    @cached_property
    def code(self) -> CodeType:
        """Return the changed file, compiled. The tree stays changed: this process can make no other mutant of it."""
        self.edit.swap()
        return compile(ast.fix_missing_locations(self.tree), str(PACKAGE / self.file), "exec")

    def __str__(self) -> str:
        return f"{self.file} {self.function}: {self.before} -> {self.after}"

    def diff(self) -> str:
        """Return the change as a diff."""
        lines = [f"- {line}" for line in self.before.splitlines()] + [f"+ {line}" for line in self.after.splitlines()]
        return f"mlpcli/{self.file}:{self.lines.start} {self.function}\n" + "\n".join(lines)

    def known(self) -> Known | None:
        """Return the entry of the table that covers this mutant."""
        return next((entry for entry in KNOWN if entry.covers(self)), None)


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return every mutant of ``source``, which is the text of ``mlpcli/FILE``."""
    tree = ast.parse(source)
    _mark_counters(tree)
    found: list[Mutant] = []
    for statement, function, kind, edit in _edits_of_body(tree, ""):
        before = _header(statement)
        edit.swap()
        after = "pass" if edit.field in _BODIES and isinstance(edit.node, _OWNERS) else _header(statement)
        edit.swap()
        lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        if body := getattr(statement, "body", None):
            lines = range(lines.start, max(lines.start + 1, body[0].lineno))
        found.append(Mutant(len(found), file, function, kind, lines, before, after, tree, edit))
    return found


def _mark_counters(tree: ast.Module) -> None:
    """Mark the uses of names that count, as they index arrays and lists: those of loops over range and enumerate."""
    loops = [node for node in ast.walk(tree) if isinstance(node, (ast.For, ast.comprehension))]
    counted = [loop for loop in loops if ast.unparse(loop.iter).startswith(("range(", "enumerate("))]
    names = {ast.unparse(loop.target).strip("()").split(",")[0] for loop in counted}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            node.counts = node.id in names  # type: ignore[attr-defined]


Found = tuple[ast.stmt, str, str, Edit]
_BODIES = ("body", "orelse", "finalbody")
_OWNERS = (ast.Module, ast.stmt, ast.ExceptHandler)


def _header(statement: ast.stmt) -> str:
    """Return the statement in normalized spelling, without the body of a compound one."""
    if not hasattr(statement, "body"):
        return ast.unparse(statement)
    bare: Any = copy.copy(statement)
    bare.body = [ast.Pass()]
    for field in ("orelse", "finalbody", "handlers", "decorator_list"):
        if hasattr(bare, field):
            setattr(bare, field, [])
    return ast.unparse(bare).removesuffix("pass").rstrip()


def _edits_of_body(owner: ast.AST, function: str) -> Iterator[Found]:
    """Yield all edits of the statements in the bodies of ``owner``."""
    for field in _BODIES:
        for index, statement in enumerate(getattr(owner, field, ())):
            yield from _edits_of_statement(statement, function, Edit(owner, field, index, ast.Pass()))
    for handler in getattr(owner, "handlers", ()):
        yield from _edits_of_body(handler, function)


def _edits_of_statement(statement: ast.stmt, function: str, dropped: Edit) -> Iterator[Found]:
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Raise, ast.Assert, ast.Pass)) or _is_docstring(statement):
        return
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        if any(isinstance(base, ast.Name) and base.id == "Protocol" for base in getattr(statement, "bases", ())):
            return
        name = f"{function}.{statement.name}".lstrip(".")
        if isinstance(statement, ast.FunctionDef):
            for kind, edit in _edits_within(statement.args):
                yield statement, name, kind, edit
        yield from _edits_of_body(statement, name)
        return
    if isinstance(statement, ast.If) and isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING":
        return
    if _has_effect_alone(statement):
        yield statement, function, "statement dropped", dropped
    only_raises = isinstance(statement, ast.If) and all(isinstance(each, ast.Raise) for each in statement.body)
    if not only_raises:
        for kind, edit in _edits_within(statement):
            yield statement, function, kind, edit
    yield from _edits_of_body(statement, function)


def _is_docstring(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _has_effect_alone(statement: ast.stmt) -> bool:
    """Return whether the rest still runs without the statement: a call for its effect, or a write into an array."""
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Call)
    if isinstance(statement, ast.AugAssign):
        return True
    return isinstance(statement, ast.Assign) and all(isinstance(to, ast.Subscript) for to in statement.targets)


def _edits_within(node: ast.AST) -> Iterator[tuple[str, Edit]]:
    """Yield the edits of the expressions in ``node``, without the body of a statement."""
    if isinstance(node, (ast.AugAssign, ast.BinOp)):
        for other in ARITHMETIC.get(type(node.op), ()):
            # Strings are joined and repeated by the same operators.
            if not (isinstance(node, ast.BinOp) and any(_is_text(side) for side in (node.left, node.right))):
                yield "arithmetic", Edit(node, "op", None, other())
    for field, value in ast.iter_fields(node):
        if field in (
            *_BODIES,
            "handlers",
            "decorator_list",
            "annotation",
            "returns",
            "type_comment",
            "vararg",
            "kwarg",
        ):
            continue
        several = value if isinstance(value, list) else [value]
        for index, child in enumerate(several):
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            at = index if isinstance(value, list) else None
            if isinstance(child, ast.cmpop):
                for new in COMPARISONS[type(child)]:
                    yield "comparison", Edit(node, field, at, new())
            elif isinstance(child, ast.AST) and not isinstance(child, (ast.JoinedStr, ast.expr_context)):
                yield from ((kind, Edit(node, field, at, new)) for kind, new in _replacements(child))
                yield from _edits_of_names(child)
                yield from _edits_within(child)
    if isinstance(node, (ast.If, ast.While, ast.IfExp)) and isinstance(node.test, (ast.Name, ast.Attribute, ast.Call)):
        yield "condition", Edit(node, "test", None, ast.UnaryOp(ast.Not(), node.test))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)))


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield replacements of a whole expression."""
    if isinstance(node, ast.Constant):
        yield from (("constant", ast.Constant(value)) for value in _nudged(node.value))
    elif getattr(node, "counts", False):
        yield "index", ast.Constant(0)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield "unary", node.operand
    elif isinstance(node, ast.BoolOp):
        yield "boolean", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for index in range(len(node.values)):
            left = [*node.values[:index], *node.values[index + 1 :]]
            yield "boolean", left[0] if len(left) == 1 else ast.BoolOp(node.op, left)
    elif isinstance(node, ast.Slice):
        one = ast.Constant(1)
        lower = one if node.lower is None else ast.BinOp(node.lower, ast.Add(), one)
        upper = ast.UnaryOp(ast.USub(), one) if node.upper is None else ast.BinOp(node.upper, ast.Sub(), one)
        yield "slice", ast.Slice(lower, node.upper, node.step)
        yield "slice", ast.Slice(node.lower, upper, node.step)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "slice":
        for index, end in enumerate(node.args[:2]):
            if not isinstance(end, (ast.Constant, ast.Starred)):
                moved = ast.BinOp(end, ast.Sub() if index else ast.Add(), ast.Constant(1))
                yield "slice", ast.Call(node.func, [*node.args[:index], moved, *node.args[index + 1 :]], [])


def _nudged(value: Any) -> tuple[Any, ...]:
    """Yield replacements of a constant."""
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (1,) if value == 0 else (0, 2) if value == 1 else (value + 1,)
    if isinstance(value, float):
        return (1.0,) if value == 0.0 else (0.0, 1.01) if value == 1.0 else (value * 1.01,)
    return ()


def _edits_of_names(node: ast.AST) -> Iterator[tuple[str, Edit]]:
    if isinstance(node, ast.Call):
        field = "id" if isinstance(node.func, ast.Name) else "attr"
        name = getattr(node.func, field, None)
        of_numpy = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "np"
        if name in NAMES and (of_numpy or name not in ONLY_NUMPY):
            yield "function", Edit(node.func, field, None, NAMES[name])


# A warm process, forked for each mutant -----------------------------------------------------------


class _Compiled(SourceFileLoader):
    """An importer of modules from ``codes``, compiled once; replace one of these to mutate a module."""

    codes: ClassVar[dict[str, CodeType]] = {}

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        code = cls.codes.get(name)
        return (
            None
            if code is None
            else importlib.util.spec_from_file_location(name, code.co_filename, loader=cls(name, code.co_filename))
        )

    def get_code(self, fullname: str) -> CodeType:
        return self.codes[fullname]


def _module(file: str) -> str:
    return ".".join(["mlpcli", *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def warm_up() -> None:
    """Import all that gradcheck imports, then unload the mutated files and their importers: a child reloads these."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    sys.path.insert(0, str(ROOT))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with _Output():
        status = mlpcli("gradcheck", *CHECKS[0])
    # A command ignores signals at its end.
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if not Path(sys.modules["mlpcli"].__file__ or "").is_relative_to(PACKAGE) or status:
        sys.exit(f"mlpcli gradcheck ended with status {status}, in {sys.modules['mlpcli'].__file__}")
    stale = set(map(_module, FILES))
    imported = {name: _imports(name) for name in list(sys.modules) if name.split(".")[0] == "mlpcli"}
    while more := {name for name, of in imported.items() if name not in stale and of & stale}:
        stale |= more
    for name in stale & set(sys.modules):
        path = Path(sys.modules.pop(name).__file__ or "")
        _Compiled.codes[name] = compile(path.read_text("utf-8"), str(path), "exec")
        parent, _, leaf = name.rpartition(".")
        if hasattr(sys.modules.get(parent), leaf):
            delattr(sys.modules[parent], leaf)
    sys.meta_path.insert(0, _Compiled)
    gc.freeze()


def _imports(module: str) -> set[str]:
    """Return the names of all modules that ``module`` imports, and of the objects imported from them."""
    found = set()
    path = sys.modules[module].__file__
    for node in ast.walk(ast.parse(Path(path).read_text("utf-8"))) if path else ():
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return found


def mlpcli(*arguments: str) -> int:
    """Run ``mlpcli ARGUMENTS`` in this process and return its exit status."""
    from mlpcli.commands import main

    try:
        main(list(arguments))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


class _Output:
    """Capture standard output and error of this process in a file."""

    def __enter__(self) -> _Output:
        self._file = tempfile.TemporaryFile()
        self._kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(self._file.fileno(), number)
        return self

    def __exit__(self, *reason: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(self._kept, 1):
            os.dup2(saved, number)
            os.close(saved)

    def last_lines(self, count: int) -> str:
        self._file.seek(0)
        return "\n".join(self._file.read().decode(errors="replace").splitlines()[-count:])


@dataclass
class Child:
    """A forked process that sends one JSON document. At the time ``until`` it is killed, with all its children."""

    process: int
    pipe: int
    until: float
    if_hung: str

    @classmethod
    def fork(cls, work: Callable[[], Any], seconds: float, if_hung: str = CAUGHT) -> Child:
        """Fork a process that sends the result of ``work`` within ``seconds`` of processor time."""
        read, write = os.pipe()
        process = os.fork()
        if process:
            os.close(write)
            # It may block forever; and on a busy machine work takes many times as long.
            return cls(process, read, time.monotonic() + 30.0 + 20.0 * seconds, if_hung)
        own = os.getpid()
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
            answer = work()
            if os.getpid() == own:  # a mutant may have lost control of what it forks
                os.write(write, json.dumps(answer).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)

    def answer(self) -> Any:
        """Return its document, or the verdict on a process that hung or died; None while it runs."""
        late = time.monotonic() > self.until
        if late:
            self._kill()
        ended, status = os.waitpid(self.process, 0 if late else os.WNOHANG)
        if ended == 0:
            return None
        self._kill()  # its orphans
        with open(self.pipe, "rb", closefd=True) as pipe:  # noqa: PTH123
            os.set_blocking(pipe.fileno(), False)
            sent = pipe.read()
        if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)):
            return self.if_hung, "", "did not end"
        return json.loads(sent) if sent else (CRASHED, "", "died")

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)


@dataclass
class Run:
    """A command, its processor time, and the lines that it reaches, by file; None: all, with MPI.

    A training writes to the folder ``out``.
    """

    arguments: tuple[str, ...]
    seconds: float
    lines: dict[str, set[int]] | None = None
    out: Path | None = None

    def reaches(self, mutant: Mutant) -> bool:
        """Return whether the mutant's statement is reached."""
        return self.lines is None or not self.lines[mutant.file].isdisjoint(mutant.lines)

    def of(self, mutant: Mutant | None, *more: str) -> tuple[int, str]:
        """Run the command with a mutant and return the exit status and the last lines of output."""
        if self.lines is None:
            return _run_by_mpi(mutant, (*self.arguments, *more))
        if mutant is not None:
            _Compiled.codes[_module(mutant.file)] = mutant.code
        return _run((*self.arguments, *more))


def trace(arguments: tuple[str, ...], out: Path | None = None) -> Callable[[], Run | None]:
    """Start the command on the files as they are, and return a function that returns its run once it has ended.

    Lines are recorded in memory shared with the processes that it forks.
    """
    marks = {str(PACKAGE / file): mmap.mmap(-1, (PACKAGE / file).stat().st_size + 2) for file in FILES}

    def on_call(frame: Any, event: str, argument: Any) -> Any:
        own = marks.get(frame.f_code.co_filename)
        if own is None:
            return None

        def on_line(frame: Any, event: str, argument: Any) -> Any:
            own[frame.f_lineno] = 1
            return on_line

        return on_line(frame, event, argument)

    def work() -> Any:
        with _Output() as output:
            sys.settrace(on_call)
            status = mlpcli(*arguments, *(() if out is None else ("--out", str(out))))
            sys.settrace(None)
        return status, output.last_lines(10), time.process_time()

    child = Child.fork(work, 60.0)

    def ended() -> Run | None:
        answer = child.answer()
        if answer is None:
            return None
        if answer[0] != 0:
            sys.exit(f"mlpcli {shlex.join(arguments)}: {answer[:2]}, without any mutation")
        lines = {file: {line for line, mark in enumerate(marks[str(PACKAGE / file)][:]) if mark} for file in FILES}
        return Run(arguments, answer[2], lines, out)

    return ended


def trace_all(commands: Sequence[tuple[tuple[str, ...], Path | None]], jobs: int) -> list[Run]:
    """Trace the commands, ``jobs`` at a time, and return their runs in order."""
    waiting, working, found = list(enumerate(commands)), dict[int, Callable[[], Run | None]](), dict[int, Run]()
    while len(found) < len(commands):
        while waiting and len(working) < jobs:
            number, command = waiting.pop(0)
            working[number] = trace(*command)
        time.sleep(0.002)
        for number, ended in list(working.items()):
            if run := ended():
                found[number] = run
                del working[number]
    return [found[number] for number in range(len(commands))]


def check(mutant: Mutant, runs: Sequence[Run]) -> tuple[str, str, str]:
    """Run gradcheck on the mutant, in a child. Return the verdict, the command that gave it, and the last output."""
    for run in runs:
        status, words = run.of(mutant)
        if status:
            return CAUGHT if status == 1 else CRASHED, shlex.join(run.arguments), words
    return SURVIVED, "", ""


def train(mutant: Mutant, runs: Sequence[Run]) -> tuple[str, str, str]:
    """Train, in a child, with a mutant that gradcheck has passed. Return the same as ``check``."""
    answer = EQUIVALENT, "", ""
    for run in runs:
        assert run.out is not None
        command = shlex.join(run.arguments)
        with tempfile.TemporaryDirectory(dir=run.out.parent) as folder:
            out = Path(folder) / "run"
            status, words = run.of(mutant, "--out", str(out))
            if status:
                return LOUD, command, words
            if moved := difference(run.out, out):
                return SURVIVED, command, moved
            if other := difference_of_metrics(run.out, out):
                answer = METRICS, command, other
    return answer


def _run(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command and return the exit status and the last lines of output."""
    own = os.getpid()
    with _Output() as output:
        try:
            status = mlpcli(*arguments)
        except BaseException as error:
            return 70, repr(error)
        finally:
            if os.getpid() != own:  # a process that the command forked, and of which the mutant lost control
                os._exit(70)
    return status, output.last_lines(4)


def _run_by_mpi(mutant: Mutant | None, arguments: Sequence[str]) -> tuple[int, str]:
    """Do the same with two processes of mpiexec, each of which mutates its modules before importing them."""
    chosen = "" if mutant is None else f"{mutant.file}:{mutant.number}"
    command = [str(mpiexec()), "-n", "2", sys.executable, "-m", "tests.mutation", RANK, chosen, *arguments]
    variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, "\n".join((done.stdout + done.stderr).splitlines()[-4:])


def mpiexec() -> str | None:
    """Return the launcher of mpi4py's MPI, or else that of the system."""
    beside = Path(sys.executable).with_name("mpiexec")  # where pip puts it
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def _be_rank(chosen: str, *arguments: str) -> None:
    """Run as one of the processes that mpiexec has started."""
    if chosen:
        file, _, number = chosen.partition(":")
        mutant = mutants_of(file, (PACKAGE / file).read_text("utf-8"))[int(number)]
        _Compiled.codes[_module(file)] = mutant.code
        sys.meta_path.insert(0, _Compiled)
    sys.exit(mlpcli(*arguments))


def difference(right: Path, other: Path) -> str:
    """Return the first array of the last checkpoint that differs by more than rounding, and by how much; or ''."""
    import numpy as np

    arrays, others = (np.load(run / "checkpoints" / "last.npz", allow_pickle=False) for run in (right, other))
    for name in arrays.files:
        one, two = arrays[name], others.get(name)
        if one.dtype.kind != "f":
            continue
        if two is None or one.shape != two.shape:
            return f"{name} has another shape"
        away, size = (float(np.linalg.norm(array)) for array in (one - two, one))
        if not away <= ROUNDING[str(one.dtype)] * size:
            return f"{name} differs by {away / size if size else away:.1e}"
    return ""


def difference_of_metrics(right: Path, other: Path) -> str:
    """Return the first field of metrics.jsonl that differs by more than rounding in float32, or ''."""
    ours, theirs = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()] for run in (right, other)
    )
    if len(ours) != len(theirs):
        return f"{len(theirs)} epochs"
    for one, two in zip(ours, theirs, strict=True):
        for key in one.keys() - {"seconds", "examples_per_second"}:
            same = one[key] == two.get(key)
            numbers = [value if isinstance(value, list) else [value] for value in (one[key], two.get(key))]
            if not same and (None in numbers[0] + numbers[1] or len(numbers[0]) != len(numbers[1])):
                return str(key)
            if not same and not all(
                math.isclose(a, b, rel_tol=ROUNDING["float32"]) for a, b in zip(*numbers, strict=True)
            ):
                return str(key)
    return ""


# All of them --------------------------------------------------------------------------------------


@dataclass
class Result:
    """The outcome of a mutant, ``by`` which command, and its ``detail``."""

    mutant: Mutant
    found: str
    by: str = ""
    detail: str = ""

    @property
    def verdict(self) -> str:
        """Return the verdict; a survivor that the table calls right is equivalent."""
        known = self.mutant.known()
        return EQUIVALENT if self.found == SURVIVED and known and known.right else self.found


def examine(mutants: Sequence[Mutant], checks: Sequence[Run], trainings: Sequence[Run], jobs: int) -> Iterator[Result]:
    """Yield results as they come: the verdict of the checks, or else of the trainings."""
    stages = ((check, checks, CAUGHT), (train, trainings, LOUD))
    waiting, working = [(mutant, 0) for mutant in reversed(mutants)], dict[int, tuple[Mutant, int, Child]]()
    while waiting or working:
        while waiting and len(working) < jobs:
            mutant, stage = waiting.pop()
            work, runs, if_hung = stages[stage]
            own = [run for run in runs if run.reaches(mutant)]
            if stage == 1 and not own and not any(run.reaches(mutant) for run in checks):
                yield Result(mutant, UNREACHED)
                continue
            # Recording lines while measuring the seconds takes three times as long.
            child = Child.fork(partial(work, mutant, own), 3.0 + sum(run.seconds for run in own), if_hung)
            working[child.process] = mutant, stage, child
        time.sleep(0.002)
        for process, (mutant, stage, child) in list(working.items()):
            answer = child.answer()
            if answer is None:
                continue
            del working[process]
            if stage == 0 and answer[0] == SURVIVED:
                waiting.append((mutant, 1))
            else:
                yield Result(mutant, *answer)


def all_mutants(files: Sequence[str] = FILES) -> list[Mutant]:
    """Return the mutants of the files, in the order of their lines."""
    return [mutant for file in files for mutant in mutants_of(file, (PACKAGE / file).read_text("utf-8"))]


def make_runs(scratch: Path, jobs: int, by_mpi: bool) -> tuple[list[Run], list[Run]]:
    """Run the checks and the trainings on the files as they are."""
    settings = (MPI_CHECKS, MPI_TRAININGS) if by_mpi else (CHECKS, TRAININGS)
    commands: list[tuple[tuple[str, ...], Path | None]] = [(("gradcheck", *own), None) for own in settings[0]]
    commands += [(("train", "--quiet", *own), scratch / str(i)) for i, own in enumerate(settings[1])]
    if not by_mpi:
        warm_up()
        runs = trace_all(commands, jobs)
    else:
        runs = [Run(arguments, MPI_SECONDS, None, out) for arguments, out in commands]
        for run in runs:
            status, words = run.of(None, *(() if run.out is None else ("--out", str(run.out))))
            if status:
                sys.exit(f"mpiexec -n 2 mlpcli {shlex.join(run.arguments)}: {status}, {words}, without any mutation")
    return runs[: len(settings[0])], runs[len(settings[0]) :]


def main() -> None:
    """Examine the requested mutants and report the results."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sample", type=int, metavar="N", help="only N mutants, drawn at random")
    options.add_argument("--seed", type=int, default=0, help="of the sample")
    options.add_argument(
        "--only", metavar="TEXT", action="append", help="only mutants with TEXT in 'FILE FUNCTION: BEFORE -> AFTER'"
    )
    options.add_argument("--mpi", action="store_true", help="two processes of MPI, and the files that differ for them")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants examined at a time")
    options.add_argument("--least", type=float, default=0.95, help="the share that must be noticed")
    options.add_argument("--json", type=Path, metavar="FILE", help="write every mutant and what became of it")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables for docs/reliability.md")
    given = options.parse_args()
    if given.mpi and mpiexec() is None:
        options.error("--mpi needs mpi4py and mpiexec: pip install '.[mpi]'")
    mutants = all_mutants(MPI_FILES if given.mpi else FILES)
    if given.only:
        mutants = [mutant for mutant in mutants if any(text in str(mutant) for text in given.only)]
    if given.sample:
        mutants = random.Random(given.seed).sample(mutants, min(given.sample, len(mutants)))
    started = time.monotonic()
    results = []
    with tempfile.TemporaryDirectory(prefix="mlpcli-mutation-", dir=FAST) as scratch:
        checks, trainings = make_runs(Path(scratch), given.jobs, given.mpi)
        for result in examine(mutants, checks, trainings, given.jobs):
            results.append(result)
            if result.found == SURVIVED and not result.mutant.known():
                _progress("")
                _say(f"survived: {result.detail}\n{result.mutant.diff()}\n")
            _progress(f"{len(results)} of {len(mutants)} mutants, {time.monotonic() - started:.0f} s")
    _progress("")
    seconds = time.monotonic() - started
    text = markdown(results, seconds)
    _say(text)
    if given.markdown:
        given.markdown.write_text(text + "\n", "utf-8")
    if given.json:
        given.json.write_text(json.dumps(_document(results, seconds), indent=1) + "\n", "utf-8")
    unlisted = [result for result in results if result.found == SURVIVED and not result.mutant.known()]
    sys.exit(1 if unlisted or noticed(Counter(result.verdict for result in results)) < given.least else 0)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the command's result


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)  # noqa: T201


def noticed(verdicts: Counter[str]) -> float:
    """Return the fraction of the mutants which change a number that gradcheck noticed."""
    found = verdicts[CAUGHT] + verdicts[CRASHED]
    return found / (found + verdicts[SURVIVED]) if found + verdicts[SURVIVED] else 1.0


def markdown(results: Sequence[Result], seconds: float) -> str:
    """Return the table of the files, and that of the survivors."""
    by_file: dict[str, Counter[str]] = {}
    for result in sorted(results, key=lambda result: FILES.index(result.mutant.file)):
        by_file.setdefault(result.mutant.file, Counter())[result.verdict] += 1
    total = sum(by_file.values(), Counter[str]())
    columns = ("file", CAUGHT, CRASHED, SURVIVED, "noticed", METRICS, LOUD, EQUIVALENT, UNREACHED)
    lines = [f"| {' | '.join(columns)} |", f"| --- |{' --: |' * (len(columns) - 1)}"]
    for name, own in [*((f"`{file}`", own) for file, own in by_file.items()), ("all", total)]:
        changed, others = (
            " | ".join(str(own[each]) for each in verdicts)
            for verdicts in ((CAUGHT, CRASHED, SURVIVED), (METRICS, LOUD, EQUIVALENT, UNREACHED))
        )
        lines.append(f"| {name} | {changed} | {noticed(own):.1%} | {others} |")
    lines += ["", f"{len(results)} mutants, {seconds:.0f} s."]
    survivors = [result.mutant for result in results if result.verdict == SURVIVED]
    if survivors:
        lines += ["", "| not caught | change | why |", "| --- | --- | --- |"]
    for mutant in survivors:
        known = mutant.known()
        change = f"`{mutant.before}` -> `{mutant.after}`"
        lines.append(f"| `{mutant.file}` `{mutant.function}` | {change} | {known.reason if known else ''} |")
    return "\n".join(lines)


def _document(results: Sequence[Result], seconds: float) -> dict[str, Any]:
    fields = ("file", "function", "kind", "before", "after")
    mutants = []
    for result in results:
        mutant, known = result.mutant, result.mutant.known()
        mutants.append(
            {
                **{field: getattr(mutant, field) for field in fields},
                "line": mutant.lines.start,
                "verdict": result.verdict,
                "by": result.by,
                "detail": result.detail,
                "reason": known.reason if known else None,
            }
        )
    commands = [
        shlex.join((name, *own)) for name, runs in (("gradcheck", CHECKS), ("train", TRAININGS)) for own in runs
    ]
    return {"seconds": seconds, "commands": commands, "mutants": mutants}


if __name__ == "__main__":
    if sys.argv[1:2] == [RANK]:
        _be_rank(*sys.argv[2:])
    main()
