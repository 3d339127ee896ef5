"""The report's page as a text: whole, small, closed to the network, and nothing a run says is read as HTML."""

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
from mlpcli.analysis.report.contents import Contents, contents, squeeze
from mlpcli.analysis.report.page import LIVE_SCRIPTS, RUNS_SCRIPTS, SCRIPTS, page
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of

HERE = Path(page_module.__file__).parent
HOSTILE = "</script><!--<script><img src=x onerror=alert(1)>&amp;$title\u2028"


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text in each script and style."""

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


def member_of(*overrides: str, shape: tuple[int, int] = (28, 28), classes: int = 10, seed: int = 0) -> LoadedModel:
    """A checkpoint that lies nowhere, of random weights, of a config that knows the bundled sample."""
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


def unsqueezed(data: bytes) -> bytes:
    """As ``spread`` in pictures.js."""
    out, i = bytearray(), 0
    while i < len(data):
        if data[i]:
            out.append(data[i])
        else:
            i += 1
            out += bytes(data[i])
        i += 1
    return bytes(out)


# What is in it -------------------------------------------------------------------------------------------------------


def test_the_page_has_the_weights_the_images_and_what_was_measured(tiny_run):
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
    said, labels = document["look"], found.part.split.labels
    assert (said["split"], said["examples"]) == ("validation", 7)
    assert np.array(said["confusion"]).sum() == 7
    # All seven images are few enough, each once, with its pixels.
    assert sorted(index for index, *_ in said["images"]) == list(range(7))
    pixels = np.frombuffer(unsqueezed(base64.b64decode(parsed.data("image-bytes"))), np.uint8).reshape(7, 20)
    for (index, label, predicted, confidence), image in zip(said["images"], pixels, strict=True):
        np.testing.assert_array_equal(image, found.part.split.images[index])
        assert (label, predicted) == (labels[index], found.ensemble.predicted[index])
        assert confidence == found.ensemble.confidence[index]
    wrong = [said["images"][position] for position in said["worst"]]
    assert len(wrong) == said["errors"]
    assert all(label != predicted for _, label, predicted, _ in wrong)
    assert np.all(np.diff([confidence for *_, confidence in wrong]) <= 0)


def test_equal_runs_give_equal_pages(tiny_run):
    found = evaluate_runs([tiny_run], "validation")
    assert page(contents(found.models[0], found)) == page(contents(found.models[0], found))


def test_a_checkpoint_outside_of_a_run_has_no_curves():
    document = json.loads(written(contents(member_of(), None, "no images")).data("document"))
    assert (document["run"], document["epochs"], document["manifest"], document["look"]) == (None, [], None, None)
    assert document["no_images"] == "no images"
    assert "hidden: [512]" in document["config"]


def test_a_network_in_float64_keeps_its_precision():
    member = member_of("network.dtype=float64", "network.hidden=[3]")
    made = contents(member, None)
    assert made.document["network"]["dtype"] == "float64"
    np.testing.assert_array_equal(np.frombuffer(made.weights, "<f8"), member.checkpoint.parameters.to_c_order())


def test_a_network_too_large_for_a_page_is_left_out_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr(module, "MOST_WEIGHT_BYTES", 1000)
    made = contents(member_of("network.hidden=[3]"), None)
    assert made.weights is None
    assert "too large" in made.document["board"]["why_not"]
    assert written(made).data("weight-bytes") == ""


@pytest.mark.parametrize(
    ("shape", "drawable"), [((28, 28), True), ((4, 512), True), ((1, 784), False), ((3, 9), False), ((513, 5), False)]
)
def test_images_that_one_cannot_draw_are_said_to_be_so(shape, drawable):
    board = contents(member_of("network.hidden=[]", shape=shape), None).document["board"]
    assert (board["why_not"] is None) == drawable
    assert board["normalise"] == (shape == (28, 28))


def test_drawings_of_clothes_are_not_centred_unasked():
    member = member_of("network.hidden=[]")
    member = replace(member, checkpoint=replace(member.checkpoint, dataset="fashion-mnist"))
    assert not contents(member, None).document["board"]["normalise"]


def test_of_many_epochs_the_page_has_some(monkeypatch, tiny_run):
    monkeypatch.setattr(module, "MOST_EPOCHS", 2)
    made = contents(open_model(tiny_run), None).document
    assert {1, 3, made["run"]["best_epoch"]} <= {epoch["epoch"] for epoch in made["epochs"]}
    lines = [{"epoch": epoch} for epoch in range(1, 10_001)]
    thinned = module._thinned(lines, 10_000, 77)
    assert len(thinned) <= 5 and {1, 77, 10_000} <= {line["epoch"] for line in thinned}
    assert module._thinned([], 0, None) == []


# Its size ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained_evaluation():
    """The default network, which has learnt nothing and so fills every cell, on 4,500 images."""
    from mlpcli.analysis import evaluation as ev
    from mlpcli.datasets.load import load_split

    member = member_of(seed=4)
    # Weights that tell apart by chance, so that the mistakes are of every kind.
    member.checkpoint.parameters.vector[...] *= 10
    part = load_split(member.checkpoint.config.data, "train")
    said = ev.outputs(member, part.split)
    return EvaluatedRuns((member,), part, "train", (ev.evaluate(said, part.split.labels),), said)


def test_a_page_of_the_default_network_has_at_most_3_mb_however_many_images_there_are(untrained_evaluation):
    made = contents(untrained_evaluation.models[0], untrained_evaluation)
    html = page(made)
    assert made.document["network"]["parameters"] == 407_050
    assert len(made.images) > 0.95 * module.IMAGE_BYTES  # the images' room is filled
    assert 2_500_000 < len(html) <= 3_000_000


def test_every_cell_gives_images_and_the_most_telling_first(untrained_evaluation):
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["look"]
    sample = [index for index, *_ in document["images"][: document["sample"]]]
    cells: dict[tuple[int, int], list[float]] = {}
    for _, label, predicted, confidence in document["images"][len(sample) :]:
        cells.setdefault((label, predicted), []).append(confidence)
    assert len(cells) > 50
    labels, said = untrained_evaluation.part.split.labels, untrained_evaluation.ensemble
    worst = {document["images"][position][0] for position in document["worst"]}
    others = ~np.isin(np.arange(len(labels)), sample)
    for (label, predicted), shown in cells.items():
        own = said.confidence[(labels == label) & (said.predicted == predicted) & others]
        assert len(shown) <= module.MOST_OF_A_CELL + len(worst)
        falling = label != predicted
        assert sorted(shown, reverse=falling) == sorted(own, reverse=falling)[: len(shown)]
    # No cell waits for another: where one gives fewer than the rest it has no more.
    found = {*cells, *((label, predicted) for _, label, predicted, _ in document["images"][: len(sample)])}
    assert found == {cell for cell, n in np.ndenumerate(np.array(document["confusion"])) if n}


def test_the_first_images_are_an_even_sample(untrained_evaluation, monkeypatch):
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["look"]
    sample = [index for index, *_ in document["images"][: document["sample"]]]
    assert len(sample) == module.SAMPLE
    assert (sample[0], sample[-1]) == (0, len(untrained_evaluation.part.split.labels) - 1)
    assert np.ptp(np.diff(sample)) <= 1
    # Large images, or images full of ink, are fewer: the mistakes need room too.
    monkeypatch.setattr(module, "IMAGE_BYTES", 40_000)
    document = contents(untrained_evaluation.models[0], untrained_evaluation).document["look"]
    assert 20 < document["sample"] < 40
    assert len(document["images"]) > document["sample"] + len(document["worst"])


@given(st.lists(st.one_of(st.just(0), st.integers(0, 255)), max_size=2000), st.integers(0, 600))
def test_squeezed_pixels_come_back(values, zeros):
    pixels = np.array([*values, *[0] * zeros, *values[:3]], np.uint8)
    assert unsqueezed(squeeze(pixels)) == pixels.tobytes()
    assert len(squeeze(np.zeros(784, np.uint8))) == 8


# Closed --------------------------------------------------------------------------------------------------------------


def policy_of(parsed: Parsed) -> dict[str, list[str]]:
    [policy] = [
        attributes["content"]
        for tag, attributes in parsed.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    return {name: values for name, *values in (rule.split() for rule in str(policy).split(";"))}


def test_the_policy_allows_the_page_s_own_scripts_and_style_and_nothing_else():
    parsed = written(contents(member_of("network.hidden=[]"), None))
    policy = policy_of(parsed)
    assert policy["default-src"] == ["'none'"]
    assert set(policy) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}

    def hashed(texts):
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]

    run = [text for attributes, text in parsed.scripts if "type" not in attributes]
    assert len(run) == len(SCRIPTS)
    assert policy["script-src"] == hashed(run)
    assert policy["style-src"] == hashed(parsed.styles)
    # It stands before anything it has to rule.
    head = [tag for tag, _ in parsed.tags]
    assert head.index("meta") < head.index("style")


def test_nothing_in_the_page_names_another_place():
    parsed = written(contents(member_of("network.hidden=[]"), None))
    for tag, attributes in parsed.tags:
        assert not {"src", "srcset", "data", "action", "background", "style"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert str(attributes.get("href", "#")).startswith("#"), tag
    sources = "".join(
        (HERE / name).read_text("utf-8")
        for name in ("report.css", "template.html", "runs.html", *SCRIPTS, *RUNS_SCRIPTS)
    )
    addresses = set(re.findall(r"\w+://[^\s\"')]+", sources))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, which nobody fetches
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|import|eval|WebSocket|innerHTML|outerHTML|document\.write)\b", sources
    )
    assert "url(" not in sources


def test_every_file_of_the_page_is_in_it_once():
    parsed = written(contents(member_of("network.hidden=[]"), None))
    texts = [text for attributes, text in parsed.scripts if "type" not in attributes]
    assert texts == [(HERE / name).read_text("utf-8") for name in SCRIPTS]
    live = {name for names in LIVE_SCRIPTS.values() for name in names}
    assert {path.name for path in HERE.glob("*.js")} == {*SCRIPTS, *RUNS_SCRIPTS, *live}
    assert not any("</script" in text.lower() or "<!--" in text for text in texts)


def test_hostile_names_stay_text():
    member = member_of("network.hidden=[]", f"data.dataset={json.dumps(HOSTILE, ensure_ascii=False)}")
    clean = written(contents(member_of("network.hidden=[]"), None))
    for made in (
        contents(replace(member, path=Path(HOSTILE.replace("/", "|"))), None, HOSTILE),
        replace(contents(member, None), title=HOSTILE),
        contents(replace(member, checkpoint=replace(member.checkpoint, dataset=HOSTILE)), None),
    ):
        parsed = written(made)
        assert [tag for tag, _ in parsed.tags] == [tag for tag, _ in clean.tags]
        assert "<" not in parsed.data("document")
        document = json.loads(parsed.data("document"))
        assert "onerror=alert(1)" in document["config"]
        assert parsed.title == f"{made.title} · mlpcli"


SMALL = contents(member_of("network.hidden=[]"), None)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_title_is_read_back(title):
    parsed = written(replace(SMALL, title=title, document={**SMALL.document, "title": title}))
    assert json.loads(parsed.data("document"))["title"] == title
    assert len(parsed.tags) == len(written(SMALL).tags)


def test_a_name_that_is_no_text_is_shown_as_far_as_it_is():
    member = replace(member_of("network.hidden=[]"), path=Path("caf\udce9.npz"))
    made = contents(member, None)
    assert made.title == "caf\ufffd.npz"
    assert page(made)
