"""The report's page as text: complete, small, without network access, and with all text of a run escaped."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli import config, experiment
from mlpcli.analysis.evaluate_runs import EvaluatedRuns, evaluate_runs
from mlpcli.analysis.evaluation import LoadedModel, open_model
from mlpcli.analysis.report import contents as module
from mlpcli.analysis.report import page as page_module
from mlpcli.analysis.report.contents import Contents, compress, contents
from mlpcli.analysis.report.page import LIVE_SCRIPTS, RUNS_SCRIPTS, SCRIPTS, page
from mlpcli.analysis.report.side_by_side import side_by_side
from mlpcli.datasets import idx
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.runs.ranking import collect
from mlpcli.state import State, architecture_of

HERE = Path(page_module.__file__).parent
HOSTILE = "</script><!--<script><img src=x onerror=alert(1)>&amp;$title\u2028"


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of each script and style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.styles: list[str] = []
        self.title = ""
        self._in = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "style":
            self.styles.append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._in == "style":
            self.styles[-1] += data
        elif self._in == "title":
            self.title += data

    def data(self, name: str) -> str:
        [text] = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return text


def model_of(*overrides: str, shape: tuple[int, int] = (28, 28), classes: int = 10, seed: int = 0) -> LoadedModel:
    """Return a model in no file, with random weights and a config for the bundled sample."""
    made = config.load(None, ("data.dataset=mnist-sample", *overrides), {})
    theta = architecture_of(made, shape[0] * shape[1], classes).parameters(made.network.dtype)
    theta.from_c_order(np.random.default_rng(seed).normal(0, 0.05, len(theta.vector)))
    checkpoint = Checkpoint(made, "mnist-sample", {}, shape, classes, State(theta, epoch=1, step=1))
    return LoadedModel(Path("loose.npz"), None, checkpoint)


@pytest.fixture
def tiny_run(tiny_config, tmp_path):
    experiment.train(tiny_config(), out=tmp_path / "run")
    return tmp_path / "run"


def written(made: Contents) -> Parsed:
    return Parsed(page(made).decode())


def decoded_pixels(data: bytes) -> bytes:
    """Decode pixels as ``decompress`` in pictures.js does."""
    out, i = bytearray(), 0
    while i < len(data):
        if data[i]:
            out.append(data[i])
        else:
            i += 1
            out += bytes(data[i])
        i += 1
    return bytes(out)


# Contents -----------------------------------------------------------------------------------------


def test_page_has_weights_images_and_results(tiny_run):
    found = evaluate_runs([tiny_run], "validation")
    parsed = written(contents(found.models[0], found))
    theta = found.models[0].checkpoint.parameters
    assert base64.b64decode(parsed.data("weight-bytes")) == theta.to_c_order().astype("<f4").tobytes()
    document = json.loads(parsed.data("document"))
    assert document["network"]["sizes"] == [20, 6, 3]
    assert document["run"]["state"] == "finished"
    assert [epoch["epoch"] for epoch in document["epochs"]] == [1, 2, 3]
    assert document["config"] == (tiny_run / "config.yaml").read_text()
    assert document["manifest"] == json.loads((tiny_run / "manifest.json").read_text())
    assert document["test"] == json.loads((tiny_run / "test.json").read_text())
    evaluation, labels = document["evaluation"], found.part.split.labels
    assert (evaluation["split"], evaluation["examples"]) == ("validation", 7)
    assert np.array(evaluation["confusion"]).sum() == 7
    # All seven images fit, each once, with its pixels.
    assert sorted(index for index, *_ in evaluation["images"]) == list(range(7))
    pixels = np.frombuffer(decoded_pixels(base64.b64decode(parsed.data("image-bytes"))), np.uint8).reshape(7, 20)
    for (index, label, predicted, confidence), image in zip(evaluation["images"], pixels, strict=True):
        np.testing.assert_array_equal(image, found.part.split.images[index])
        assert (label, predicted) == (labels[index], found.ensemble.predicted[index])
        assert confidence == found.ensemble.confidence[index]
    wrong = [evaluation["images"][position] for position in evaluation["worst"]]
    assert len(wrong) == evaluation["errors"]
    assert all(label != predicted for _, label, predicted, _ in wrong)
    assert np.all(np.diff([confidence for *_, confidence in wrong]) <= 0)


def test_equal_runs_give_equal_pages(tiny_run):
    found = evaluate_runs([tiny_run], "validation")
    assert page(contents(found.models[0], found)) == page(contents(found.models[0], found))


@pytest.mark.parametrize("network", [(), ("network.single_output=true", "network.objective=linear_quadratic")])
def test_runs_side_by_side_have_the_parameters_of_their_networks(tiny_config, tmp_path, network):
    experiment.train(tiny_config("training.learning_rate=0.01", *network), out=tmp_path / "run")
    [run] = side_by_side(collect([tmp_path]), "runs")["runs"]
    assert run["parameters"] == len(open_model(tmp_path / "run").checkpoint.parameters.vector)


def test_data_sets_of_one_name_are_told_apart(tiny_config, tiny_folder, tmp_path):
    config = tiny_config()
    experiment.train(config, out=tmp_path / "runs" / "a")
    for split, count in (("train", 40), ("t10k", 10)):
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
            shape = (count, 3, 3) if kind.startswith("images") else (count,)
            array = np.arange(np.prod(shape)).reshape(shape) % (4 if len(shape) == 1 else 251)
            (tiny_folder / f"{split}-{kind}").write_bytes(idx.encode(array.astype(np.uint8)))
    experiment.train(config, out=tmp_path / "runs" / "b")
    found = [run["parameters"] for run in side_by_side(collect([tmp_path / "runs"]), "runs")["runs"]]
    networks = [open_model(tmp_path / "runs" / name).checkpoint.parameters for name in "ab"]
    assert sorted(found) == sorted(len(network.vector) for network in networks)


def test_weights_that_stay_0_are_counted_apart(tiny_config, tmp_path):
    config = tiny_config("network.receptive_fields=[1.5]", "data.validation=0")
    experiment.train(config, out=tmp_path / "run")
    model = open_model(tmp_path / "run")
    vector = model.checkpoint.parameters.vector
    fixed = len(vector) - np.count_nonzero(vector)
    assert fixed > 0
    network = contents(model, None, "no images").document["network"]
    assert (network["parameters"], network["fixed"]) == (len(vector), fixed)
    [run] = side_by_side(collect([tmp_path]), "runs")["runs"]
    assert run["parameters"] == len(vector) - fixed


def test_checkpoint_outside_a_run_has_no_curves():
    document = json.loads(written(contents(model_of(), None, "no images")).data("document"))
    assert (document["run"], document["epochs"], document["manifest"], document["evaluation"]) == (None, [], None, None)
    assert document["no_images"] == "no images"
    assert "hidden: [512]" in document["config"]


def test_float64_network_keeps_its_precision():
    model = model_of("network.dtype=float64", "network.hidden=[3]")
    made = contents(model, None)
    assert made.document["network"]["dtype"] == "float64"
    np.testing.assert_array_equal(np.frombuffer(made.weights, "<f8"), model.checkpoint.parameters.to_c_order())


def test_network_too_large_for_a_page_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "MAX_WEIGHT_BYTES", 1000)
    made = contents(model_of("network.hidden=[3]"), None)
    assert made.weights is None
    assert "too large" in made.document["board"]["why_not"]
    assert written(made).data("weight-bytes") == ""


@pytest.mark.parametrize(
    ("shape", "drawable"), [((28, 28), True), ((4, 512), True), ((1, 784), False), ((3, 9), False), ((513, 5), False)]
)
def test_images_that_cannot_be_drawn_are_marked(shape, drawable):
    board = contents(model_of("network.hidden=[]", shape=shape), None).document["board"]
    assert (board["why_not"] is None) == drawable
    assert board["normalise"] == (shape == (28, 28))


def test_drawings_of_clothes_are_not_centred():
    model = model_of("network.hidden=[]")
    model = replace(model, checkpoint=replace(model.checkpoint, dataset="fashion-mnist"))
    assert not contents(model, None).document["board"]["normalise"]


def test_page_thins_out_many_epochs(monkeypatch, tiny_run):
    monkeypatch.setattr(module, "MAX_EPOCHS", 2)
    made = contents(open_model(tiny_run), None).document
    assert {1, 3, made["run"]["best_epoch"]} <= {epoch["epoch"] for epoch in made["epochs"]}
    lines = [{"epoch": epoch} for epoch in range(1, 10_001)]
    thinned = module._thinned(lines, 10_000, 77)
    assert len(thinned) <= 5 and {1, 77, 10_000} <= {line["epoch"] for line in thinned}
    assert module._thinned([], 0, None) == []


# Its size -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained_evaluation():
    """Evaluate the untrained default network on 4,500 images: every cell of the confusion matrix is filled."""
    from mlpcli.analysis import evaluation as ev
    from mlpcli.datasets.load import load_split

    model = model_of(seed=4)
    # Random weights, so that the mistakes are of every kind.
    model.checkpoint.parameters.vector[...] *= 10
    part = load_split(model.checkpoint.config.data, "train")
    evaluation = ev.outputs(model, part.split)
    return EvaluatedRuns((model,), part, "train", (ev.evaluate(evaluation, part.split.labels),), evaluation)


def test_page_of_the_default_network_has_at_most_3_mb(untrained_evaluation):
    made = contents(untrained_evaluation.models[0], untrained_evaluation)
    html = page(made)
    assert made.document["network"]["parameters"] == 407_050
    assert len(made.images) > 0.95 * module.IMAGE_BYTES  # the space for images is used
    assert 2_500_000 < len(html) <= 3_000_000


def test_every_cell_has_images_the_most_confident_first(untrained_evaluation):
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["evaluation"]
    sample = [index for index, *_ in document["images"][: document["sample"]]]
    cells: dict[tuple[int, int], list[float]] = {}
    for _, label, predicted, confidence in document["images"][len(sample) :]:
        cells.setdefault((label, predicted), []).append(confidence)
    assert len(cells) > 50
    labels, evaluation = untrained_evaluation.part.split.labels, untrained_evaluation.ensemble
    worst = {document["images"][position][0] for position in document["worst"]}
    others = ~np.isin(np.arange(len(labels)), sample)
    for (label, predicted), shown in cells.items():
        own = evaluation.confidence[(labels == label) & (evaluation.predicted == predicted) & others]
        assert len(shown) <= module.MAX_PER_CELL + len(worst)
        falling = label != predicted
        assert sorted(shown, reverse=falling) == sorted(own, reverse=falling)[: len(shown)]
    # A cell with fewer images than the others has no more.
    found = {*cells, *((label, predicted) for _, label, predicted, _ in document["images"][: len(sample)])}
    assert found == {cell for cell, n in np.ndenumerate(np.array(document["confusion"])) if n}


def test_first_images_are_an_even_sample(untrained_evaluation, monkeypatch):
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["evaluation"]
    sample = [index for index, *_ in document["images"][: document["sample"]]]
    assert len(sample) == module.SAMPLE
    assert (sample[0], sample[-1]) == (0, len(untrained_evaluation.part.split.labels) - 1)
    assert np.ptp(np.diff(sample)) <= 1
    # Fewer large or full images, as the mistakes need space too.
    monkeypatch.setattr(module, "IMAGE_BYTES", 40_000)
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["evaluation"]
    assert 20 < document["sample"] < 40
    assert len(document["images"]) > document["sample"] + len(document["worst"])


@given(st.lists(st.one_of(st.just(0), st.integers(0, 255)), max_size=2000), st.integers(0, 600))
def test_encoded_pixels_are_decoded(values, zeros):
    pixels = np.array([*values, *[0] * zeros, *values[:3]], np.uint8)
    assert decoded_pixels(compress(pixels)) == pixels.tobytes()
    assert len(compress(np.zeros(784, np.uint8))) == 8


# Security -----------------------------------------------------------------------------------------


def policy_of(parsed: Parsed) -> dict[str, list[str]]:
    [policy] = [
        attributes["content"]
        for tag, attributes in parsed.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    return {name: values for name, *values in (rule.split() for rule in str(policy).split(";"))}


def test_policy_allows_only_the_scripts_and_style_of_the_page():
    parsed = written(contents(model_of("network.hidden=[]"), None))
    policy = policy_of(parsed)
    assert policy["default-src"] == ["'none'"]
    assert set(policy) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}

    def hashed(texts):
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]

    run = [text for attributes, text in parsed.scripts if "type" not in attributes]
    assert len(run) == len(SCRIPTS)
    assert policy["script-src"] == hashed(run)
    assert policy["style-src"] == hashed(parsed.styles)
    # The policy comes before all that it applies to.
    head = [tag for tag, _ in parsed.tags]
    assert head.index("meta") < head.index("style")


def test_page_contains_no_address():
    parsed = written(contents(model_of("network.hidden=[]"), None))
    for tag, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "action", "background", "style"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert str(attributes.get("href", "#")).startswith("#"), tag
    sources = "".join(
        (HERE / name).read_text("utf-8")
        for name in ("report.css", "template.html", "runs.html", *SCRIPTS, *RUNS_SCRIPTS)
    )
    addresses = set(re.findall(r"\w+://[^\s\"')]+", sources))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a namespace, which is not fetched
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|import|eval|WebSocket|innerHTML|outerHTML|document\.write)\b", sources
    )
    assert "url(" not in sources


def test_every_script_of_the_page_is_in_it_once():
    parsed = written(contents(model_of("network.hidden=[]"), None))
    texts = [text for attributes, text in parsed.scripts if "type" not in attributes]
    assert texts == [(HERE / name).read_text("utf-8") for name in SCRIPTS]
    live = {name for names in LIVE_SCRIPTS.values() for name in names}
    assert {path.name for path in HERE.glob("*.js")} == {*SCRIPTS, *RUNS_SCRIPTS, *live}
    assert not any("</script" in text.lower() or "<!--" in text for text in texts)


def test_hostile_names_stay_text():
    model = model_of("network.hidden=[]", f"data.dataset={json.dumps(HOSTILE, ensure_ascii=False)}")
    clean = written(contents(model_of("network.hidden=[]"), None))
    for made in (
        contents(replace(model, path=Path(HOSTILE.replace("/", "|"))), None, HOSTILE),
        replace(contents(model, None), title=HOSTILE),
        contents(replace(model, checkpoint=replace(model.checkpoint, dataset=HOSTILE)), None),
    ):
        parsed = written(made)
        assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in clean.tags]
        assert "<" not in parsed.data("document")
        document = json.loads(parsed.data("document"))
        assert "onerror=alert(1)" in document["config"]
        assert parsed.title == f"{made.title} · mlpcli"


SMALL = contents(model_of("network.hidden=[]"), None)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_title_is_escaped(title):
    parsed = written(replace(SMALL, title=title, document={**SMALL.document, "title": title}))
    assert json.loads(parsed.data("document"))["title"] == title
    assert len(parsed.tags) == len(written(SMALL).tags)


def test_name_that_is_not_unicode_is_shown_escaped():
    model = replace(model_of("network.hidden=[]"), path=Path("caf\udce9.npz"))
    made = contents(model, None)
    assert made.title == "caf\ufffd.npz"
    assert page(made)
