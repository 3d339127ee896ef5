"""The files that the mutation test changes, the commands it runs, and the known survivors, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.mutation import Mutant

# The files that a training step runs through, in mlpcli/.
FILES = (
    "model/network.py",
    "model/input.py",
    "model/blas.py",
    "model/small_gemm.py",
    "model/numerics.py",
    "model/objectives.py",
    "model/activations.py",
    "model/dropout.py",
    "model/parameters.py",
    "model/build.py",
    "training/step.py",
    "training/connections.py",
    "training/targets.py",
    "training/adversary.py",
    "training/optimizers.py",
    "training/averaging.py",
    "training/batches.py",
    "training/margins.py",
    "rng.py",
    "training/augment.py",
    "training/schedule.py",
    "training/trainer.py",
    "parallel/comm.py",
    "parallel/forked.py",
    "parallel/mpi.py",
    "parallel/control.py",
)


def _settings(*keys: str) -> tuple[str, ...]:
    return tuple(part for key in keys for part in ("--set", key))


# Arguments of ``mlpcli gradcheck``, cheapest first. A mutant is run with those that reach its line, until one fails.
_DISTORTIONS = tuple(
    f"augmentation.{key}"
    for key in ("rotation=10", "scale=0.1", "shear=10", "shift=1", "elastic_alpha=34", "elastic_sigma=5")
)
_ADVERSARIAL = "training.adversarial=0.5"
CHECKS = tuple(
    ("--entries", "5", *flags, *_settings("network.hidden=[12]", *keys))
    for flags, *keys in (
        ((), "training.optimizer=momentum"),
        (
            (),
            "network.hidden=[]",
            "training.l2=0",
            "network.objective=normalized_sigmoid",
            "training.batch_size=10",
            _ADVERSARIAL,
        ),
        (
            ("--processes", "3"),
            "network.hidden=[70,65]",
            "network.activation=tanh",
            "training.optimizer=nesterov",
            "training.batch_size=33",
            "training.dropout=0.5",
            "training.input_dropout=0.2",
            "training.averaging=0.9",
            "training.label_smoothing=0.1",
        ),
        # 40 units: with fewer, margins are not trimmed.
        (
            (),
            "network.hidden=[40]",
            "network.activation=relu",
            "network.objective=linear_hinge",
            "training.optimizer=sgd",
        ),
        (
            (),
            "network.hidden=[40]",
            "network.objective=sigmoid_cross_entropy",
            "training.optimizer=adam",
            "training.schedule=step",
        ),
        ((), "network.objective=linear_quadratic", "training.batch_size=130", "training.schedule=constant"),
        ((), "network.hidden=[40,8]", "network.objective=sigmoid_quadratic", _ADVERSARIAL, *_DISTORTIONS),
        ((), "network.hidden=[12,8]", "network.receptive_fields=[5,9]"),
        (("--processes", "2"), "network.hidden=[12]", "network.receptive_fields=[20]"),
        ((), "network.hidden=[12]", "network.single_output=true", "network.objective=linear_quadratic"),
        # Batches of four examples and of two, as few rows as gemm has.
        ((), "network.hidden=[8,6]", "training.batch_size=4"),
    )
)

# Arguments of ``mlpcli train``, to find out if a mutant that passes the checks changes a parameter.
# The 200 images are three batches and a smaller one; rates are low, so that rounding stays what it is.
_FEW = _settings(
    "data.dataset=mnist-sample",
    "data.validation=4800",
    "data.test=false",
    "network.hidden=[24]",
    "network.dtype=float64",
    "network.initialization=glorot",
    "training.epochs=2",
    "training.batch_size=64",
    "training.learning_rate=0.05",
    "training.warmup_epochs=0",
    "training.schedule=constant",
    "training.l2=1e-4",
)
TRAININGS = tuple(
    (*flags, *_FEW, *_settings(*keys))
    for flags, *keys in (
        ((), "training.optimizer=momentum"),
        # Small products in float32 have another code path on some processors.
        ((), "network.dtype=float32", "network.hidden=[30]", "training.batch_size=200", "training.optimizer=momentum"),
        ((), "training.optimizer=nesterov", "training.averaging=0.9", "training.epochs=3", "network.hidden=[70]"),
        (
            (),
            "training.optimizer=adam",
            "network.activation=tanh",
            "network.objective=linear_hinge",
            "training.epochs=7",
            "training.batch_size=10",
            "training.learning_rate=0.001",
        ),
        (
            (),
            "training.optimizer=sgd",
            "network.hidden=[24,80]",
            "network.activation=relu",
            "training.dropout=0.5",
            "training.input_dropout=0.2",
            "network.objective=sigmoid_cross_entropy",
        ),
        ((), "network.hidden=[]", "training.batch_size=10", "training.l2=0", "network.objective=normalized_sigmoid"),
        ((), "network.objective=sigmoid_quadratic", *_DISTORTIONS),
        ((), "network.objective=linear_quadratic", "training.batch_size=1000", "training.optimizer=momentum"),
        ((), "network.receptive_fields=[5]"),
        ((), "network.hidden=[24,12]", "network.receptive_fields=[20,9]"),
        (
            (),
            "network.single_output=true",
            "network.objective=linear_quadratic",
            "training.learning_rate=0.001",
        ),
        (("--processes", "2"), _ADVERSARIAL),
        (("--processes", "2"), _ADVERSARIAL, "network.hidden=[]"),
        (("--processes", "2"), "training.optimizer=momentum", "network.hidden=[24,16]"),
        (
            ("--processes", "3"),
            "training.optimizer=nesterov",
            "network.hidden=[70,65]",
            "training.dropout=0.5",
            "training.input_dropout=0.2",
            "training.averaging=0.9",
            "training.batch_size=33",
        ),
    )
)

# The same with ``mpiexec -n 2`` and ``--mpi``, for the files that behave differently there.
MPI_FILES = ("parallel/mpi.py", "parallel/comm.py", "training/step.py", "training/batches.py", "training/trainer.py")
MPI_CHECKS = tuple(
    ("--mpi", "--entries", "5", *_settings("network.hidden=[12]", *keys))
    for keys in (
        ("training.optimizer=momentum", "training.l2=0"),
        ("training.optimizer=adam", "training.dropout=0.5", "training.input_dropout=0.2", "training.averaging=0.9"),
    )
)
MPI_TRAININGS = tuple(
    ("--mpi", *_FEW, *_settings(*keys))
    for keys in (
        ("training.optimizer=momentum", "training.l2=0"),
        ("training.optimizer=nesterov", "training.dropout=0.5", "training.input_dropout=0.2", "training.averaging=0.9"),
    )
)


@dataclass(frozen=True)
class Known:
    """Mutants that change a parameter, and that gradcheck cannot catch or need not catch.

    ``before`` is the statement that is changed, as ``ast.unparse`` writes it, without its body; "" means the whole
    function. ``after`` is the changed statement; "" means every change. ``right``: another number, but not a wrong
    one, such as other random numbers.
    """

    file: str
    function: str
    before: str
    after: str
    reason: str
    right: bool = False

    def covers(self, mutant: Mutant) -> bool:
        """Return whether ``mutant`` is one of these."""
        same = (self.file, self.function) == (mutant.file, mutant.function)
        return same and self.before in ("", mutant.before) and self.after in ("", mutant.after)


SLOTS = "self._X = [self._allocate((self._local_rows(self._batch_size), train.images.shape[1]))"
KNOWN: tuple[Known, ...] = (
    Known("training/connections.py", "initial_factors", "", "", "Initial weights: where the steps begin.", True),
    *(
        Known("model/parameters.py", function, "", "", "Initial weights: where the steps begin, no part of one.", True)
        for function in ("initialize", "_glorot", "_he", "_lecun")
    ),
    Known(
        "rng.py",
        "keyed_rng",
        "def keyed_rng(seed: int, purpose: str, epoch: int=0) -> np.random.Generator:",
        "",
        "The key of the initial weights, which have no epoch: other random numbers.",
        True,
    ),
    *(
        Known(
            "rng.py",
            "",
            "PURPOSES = {'initialization': 1, 'order': 2, 'affine': 3, 'elastic': 4, 'dropout': 5, 'sweep': 6, "
            "'input dropout': 7, 'validation': 8}",
            f"PURPOSES = {{'initialization': {number}, 'order': 2, 'affine': 3, 'elastic': 4, 'dropout': 5, "
            "'sweep': 6, 'input dropout': 7, 'validation': 8}",
            "The key of the initial weights: other random numbers.",
            True,
        )
        for number in (0, 2)
    ),
    *(
        Known(
            "model/parameters.py",
            "Parameters.tensors",
            "for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True), start=1):",
            f"for layer, (W, b) in enumerate(zip(self.W, self.b, strict=True), start={start}):",
            "The names of the tensors, in a checkpoint and in the check's table; their numbers are right.",
        )
        for start in (0, 2)
    ),
    Known(
        "training/margins.py",
        "Margins.__init__",
        "self._first[part] = nonzero.argmax(axis=1) // MARGIN_ALIGNMENT",
        "pass",
        "Reads memory that was not written, where the check happens to find zeros: no margin is cut on the left.",
    ),
    Known(
        "training/batches.py",
        "Batches.epoch",
        "number += 1",
        "",
        "A batch is written where others may still read the one before. In the check all wait after each step.",
    ),
    Known(
        "training/trainer.py",
        "Trainer.finished",
        "",
        "",
        "How many epochs a run has, not what a step does: tests/test_resume.py and tests/training hold it.",
    ),
    *(
        Known(
            "training/trainer.py",
            "Trainer.__init__",
            f"{SLOTS} for _ in range(2 if self._comm.model.size > 1 else 1)]",
            f"{SLOTS} for _ in range(2 if self._comm.model.size {other} else 1)]",
            "One slot for several processes: a race, as above.",
        )
        for other in ("<= 1", "> 2")
    ),
)
